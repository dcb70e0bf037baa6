//! Python's pickles, as far as PyTorch's checkpoints need them: data is read, nothing is called.
//!
//! A pickle is a program for a small machine that can import any function of Python and call it. Here the machine knows
//! the handful of names that checkpoints of tensors are made of ([`known`]); any other name is an error before anything
//! follows from it. Objects live in one list and refer to each other by number, so that neither depth nor cycles nor
//! sharing cost more than the bytes that describe them.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;

/// Arguments of a function that are looked at, and axes of a tensor.
const MOST_ARGUMENTS: usize = 8;
/// Bytes of a storage's name.
const LONGEST_KEY: usize = 256;

/// The number of an object.
pub(super) type Id = u32;

/// What a pickle describes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    /// `None`, a float, bytes, a setting: whatever no tensor is made of.
    Other,
    Bool(bool),
    Int(i64),
    Text(String),
    /// A tuple, a list or a set.
    Items(Vec<Id>),
    /// Keys and values; ordered ones too.
    Dict(Vec<(Id, Id)>),
    /// A name that was imported.
    Global(Global),
    /// Where a tensor's numbers lie.
    Storage(Box<Storage>),
    Tensor(Box<TensorRef>),
}

/// The names that a checkpoint may import, by what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict` and the like: called without arguments that matter.
    Dict,
    /// `torch.FloatStorage`, …: the type of a storage's numbers; none where no network is made of such numbers.
    Numbers(Option<DType>, usize),
    /// `torch._utils._rebuild_tensor_v2`.
    Tensor,
    /// `torch._utils._rebuild_parameter`.
    Parameter,
    /// `torch.Size`: its argument.
    Same,
    /// Harmless, and of no use here: `argparse.Namespace`, NumPy's scalars, `torch.device`, ….
    Ignored,
}

/// A named piece of the file that holds numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub(super) key: String,
    /// None where no network is made of such numbers.
    pub(super) dtype: Option<DType>,
    /// Bytes of a number.
    pub(super) size: usize,
    /// Numbers.
    pub(super) count: usize,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TensorRef {
    pub(super) storage: Storage,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

/// What importing `module.name` gives; an error for everything that is not on the list.
fn known(module: &str, name: &str) -> Result<Global> {
    let storage = |dtype, size| Global::Numbers(dtype, size);
    Ok(match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Global::Dict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::Tensor,
        ("torch._utils", "_rebuild_parameter") => Global::Parameter,
        ("torch", "FloatStorage") => storage(Some(DType::F32), 4),
        ("torch", "DoubleStorage") => storage(Some(DType::F64), 8),
        ("torch", "HalfStorage") => storage(Some(DType::F16), 2),
        ("torch", "BFloat16Storage") => storage(Some(DType::BF16), 2),
        ("torch", "LongStorage") => storage(Some(DType::I64), 8),
        ("torch", "IntStorage") => storage(None, 4),
        ("torch", "ShortStorage") => storage(None, 2),
        ("torch", "CharStorage" | "ByteStorage" | "BoolStorage") => storage(None, 1),
        ("torch", "Size") => Global::Same,
        ("argparse", "Namespace")
        | ("torch", "device" | "dtype" | "float16" | "float32" | "float64" | "bfloat16" | "int64")
        | ("numpy", "dtype")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar")
        | ("_codecs", "encode")
        | ("__builtin__" | "builtins", "dict" | "set" | "list" | "tuple" | "int" | "float" | "bool") => {
            Global::Ignored
        }
        _ => bail!(
            "it asks for `{}.{}`: a checkpoint that may run code is not read; keep the tensors alone with \
             torch.save(model.state_dict(), …), or save them as safetensors",
            shown(module),
            shown(name)
        ),
    })
}

/// A name from a file, cut to what an error can show.
fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(60).flat_map(char::escape_default).collect();
    if name.chars().nth(60).is_some() {
        text.push('…');
    }
    text
}

/// The objects of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

impl Pickle {
    /// Reads the pickle that `bytes` begin with, and its length in bytes.
    ///
    /// # Errors
    /// Where it is cut short or damaged, or asks for anything but data.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, usize)> {
        let mut machine = Machine {
            bytes,
            at: 0,
            objects: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = loop {
            let before = machine.at;
            let done = machine.step();
            if let Some(root) = done.with_context(|| format!("its pickle cannot be read at byte {before}"))? {
                break root;
            }
        };
        Ok((Self { objects: machine.objects, root }, machine.at))
    }

    /// What the pickle is of.
    pub(super) fn root(&self) -> Id {
        self.root
    }

    /// How many objects there are, numbered from 0.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id as usize]
    }

    /// The text `id`, where it is one.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of the text `key` in the dictionary `id`.
    pub(super) fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let Object::Dict(entries) = self.get(id) else { return None };
        entries.iter().find(|(found, _)| self.text(*found) == Some(key)).map(|(_, value)| *value)
    }
}

/// The machine that a pickle is a program of (protocols 2 to 5).
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    /// One instruction; the root after the last one.
    fn step(&mut self) -> Result<Option<Id>> {
        let instruction = self.take(1)?[0];
        match instruction {
            0x80 => ensure!(self.take(1)?[0] <= 5, "it is of a protocol above 5"),
            0x95 => {
                self.take(8)?; // the length of a frame, which needs not be known
            }
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => {
                let last = self.last()?;
                self.stack.push(last);
            }
            b'N' | 0x88 | 0x89 | b'K' | b'M' | b'J' | 0x8a | 0x8b | b'G' => self.number(instruction)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' | 0x8e => self.string(instruction)?,
            b')' | b']' | 0x8f => self.push(Object::Items(Vec::new())),
            b't' | b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Object::Items(items));
            }
            0x85..=0x87 => {
                let count = usize::from(instruction - 0x84);
                let from = self.stack.len().checked_sub(count).filter(|&from| from >= self.floor());
                let items = self.stack.split_off(from.context("its stack is empty")?);
                self.push(Object::Items(items));
            }
            b'}' => self.push(Object::Dict(Vec::new())),
            b'd' | b'u' | b's' | b'a' | b'e' | 0x90 => self.collect(instruction)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(instruction)?,
            b'c' | 0x93 => self.import(instruction)?,
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Object::Storage(Box::new(storage)));
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.call(callable, arguments)?;
            }
            0x92 => {
                let (_named, arguments, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callable, arguments)?;
            }
            b'b' => {
                self.pop()?; // attributes of a dictionary: versions of modules, which say nothing of tensors
                self.last()?;
            }
            b'i' | b'o' | 0x82..=0x84 | b'P' => {
                bail!(
                    "it has the instruction {instruction:#04x}, which makes objects of any class: that is not read"
                )
            }
            _ => bail!(
                "it has the instruction {instruction:#04x}, which checkpoints have not: the file is damaged"
            ),
        }
        Ok(None)
    }

    fn number(&mut self, instruction: u8) -> Result<()> {
        let object = match instruction {
            0x88 => Object::Bool(true),
            0x89 => Object::Bool(false),
            b'K' => Object::Int(self.take(1)?[0].into()),
            b'M' => Object::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Object::Int(i32::from_le_bytes(self.array()?).into()),
            0x8a => {
                let length = self.take(1)?[0].into();
                self.long(length)?
            }
            0x8b => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.long(length)?
            }
            b'G' => {
                self.take(8)?;
                Object::Other
            }
            _ => Object::Other,
        };
        self.push(object);
        Ok(())
    }

    /// A whole number of `length` bytes, two's complement; those that no size can have are of no use.
    fn long(&mut self, length: usize) -> Result<Object> {
        let bytes = self.take(length)?;
        if length > 8 {
            return Ok(Object::Other);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut all = [if negative { 0xff } else { 0 }; 8];
        all[..length].copy_from_slice(bytes);
        Ok(Object::Int(i64::from_le_bytes(all)))
    }

    fn string(&mut self, instruction: u8) -> Result<()> {
        let length = match instruction {
            0x8c | b'U' | b'C' => usize::from(self.take(1)?[0]),
            0x8d | 0x8e => usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX),
            _ => u32::from_le_bytes(self.array()?) as usize,
        };
        let bytes = self.take(length)?;
        let is_text = !matches!(instruction, b'C' | b'B' | 0x8e);
        let text = std::str::from_utf8(bytes).ok().filter(|_| is_text);
        let object = text.map_or(Object::Other, |text| Object::Text(text.to_owned()));
        self.push(object);
        Ok(())
    }

    /// What puts objects into a dictionary, a list or a set.
    fn collect(&mut self, instruction: u8) -> Result<()> {
        let items = match instruction {
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            b'a' => vec![self.pop()?],
            _ => self.pop_mark()?,
        };
        if matches!(instruction, b'a' | b'e' | 0x90) {
            let into = self.last()?;
            match &mut self.objects[into as usize] {
                Object::Items(all) => all.extend(items),
                _ => bail!("it appends to what is no list"),
            }
            return Ok(());
        }
        ensure!(items.len() % 2 == 0, "a dictionary has a key without a value");
        let entries = items.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        if instruction == b'd' {
            let entries = entries.collect();
            self.push(Object::Dict(entries));
            return Ok(());
        }
        let into = self.last()?;
        match &mut self.objects[into as usize] {
            Object::Dict(all) => all.extend(entries),
            Object::Other => {}
            _ => bail!("it sets entries of what is no dictionary"),
        }
        Ok(())
    }

    fn remember(&mut self, instruction: u8) -> Result<()> {
        let place = match instruction {
            b'q' | b'h' => u32::from(self.take(1)?[0]),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            _ => self.memo.len() as u32,
        };
        if matches!(instruction, b'h' | b'j') {
            let found = *self.memo.get(&place).context("it recalls what it has not remembered")?;
            self.stack.push(found);
        } else {
            let last = self.last()?;
            self.memo.insert(place, last);
        }
        Ok(())
    }

    fn import(&mut self, instruction: u8) -> Result<()> {
        let global = if instruction == b'c' {
            let (module, name) = (self.line()?, self.line()?);
            known(&module, &name)?
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.objects[module as usize], &self.objects[name as usize]) {
                (Object::Text(module), Object::Text(name)) => known(module, name)?,
                _ => bail!("it imports what is no name"),
            }
        };
        self.push(Object::Global(global));
        Ok(())
    }

    fn call(&mut self, callable: Id, arguments: Id) -> Result<()> {
        let Object::Global(global) = self.objects[callable as usize] else {
            bail!("it calls what is no function of a checkpoint");
        };
        let Object::Items(arguments) = &self.objects[arguments as usize] else {
            bail!("it calls a function without arguments");
        };
        let arguments: Vec<Id> = arguments.iter().take(MOST_ARGUMENTS).copied().collect();
        let object = match global {
            Global::Dict => Object::Dict(Vec::new()),
            Global::Tensor => Object::Tensor(Box::new(self.tensor(&arguments)?)),
            Global::Parameter | Global::Same => {
                let same = *arguments.first().context("it calls a function without its argument")?;
                self.stack.push(same);
                return Ok(());
            }
            Global::Ignored => Object::Other,
            Global::Numbers(..) => bail!("it makes a storage by hand"),
        };
        self.push(object);
        Ok(())
    }

    /// `('storage', type, key, place, count)`.
    fn storage(&self, id: Id) -> Result<Storage> {
        let parts = self.items(id)?;
        let part = |index: usize| parts.get(index).map(|&id| &self.objects[id as usize]);
        let (Some(Object::Text(word)), Some(Object::Global(Global::Numbers(dtype, size)))) =
            (part(0), part(1))
        else {
            bail!("it refers to what is no storage");
        };
        let (Some(Object::Text(key)), Some(&Object::Int(count))) = (part(2), part(4)) else {
            bail!("a storage has no name or no size");
        };
        ensure!(key.len() <= LONGEST_KEY, "a storage has a name of {} bytes", key.len());
        ensure!(word == "storage", "it refers to a `{}`, not to a storage", shown(word));
        let count = usize::try_from(count).ok().context("a storage has a negative size")?;
        Ok(Storage { key: key.clone(), dtype: *dtype, size: *size, count })
    }

    /// Storage, offset, shape, strides, and what is of no use.
    fn tensor(&self, arguments: &[Id]) -> Result<TensorRef> {
        let &[storage, offset, shape, stride, ..] = arguments else {
            bail!("a tensor has {} parts instead of at least four", arguments.len());
        };
        let Object::Storage(storage) = &self.objects[storage as usize] else {
            bail!("a tensor has no storage");
        };
        let storage = Storage::clone(storage);
        let offset = self.size(offset)?;
        let (shape, stride) = (self.items(shape)?, self.items(stride)?);
        let axes = shape.len();
        ensure!(
            axes == stride.len() && axes <= MOST_ARGUMENTS,
            "a tensor has {axes} axes and {} strides",
            stride.len()
        );
        let sizes = |ids: &[Id]| ids.iter().map(|&id| self.size(id)).collect::<Result<Vec<_>>>();
        let (shape, stride) = (sizes(shape)?, sizes(stride)?);
        // More numbers than the storage has would be a small file that asks for much memory.
        let count = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let last = shape
            .iter()
            .zip(&stride)
            .try_fold(offset, |last, (&n, &step)| last.checked_add(n.saturating_sub(1).checked_mul(step)?));
        let inside = count.is_some_and(|count| {
            count <= storage.count && (count == 0 || last.is_some_and(|last| last < storage.count))
        });
        ensure!(inside, "a tensor of {shape:?} does not fit its storage of {} numbers", storage.count);
        Ok(TensorRef { storage, offset, shape, stride })
    }

    fn items(&self, id: Id) -> Result<&[Id]> {
        match &self.objects[id as usize] {
            Object::Items(items) => Ok(items),
            _ => bail!("a tuple is missing"),
        }
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.objects[id as usize] {
            Object::Int(size) => usize::try_from(size).ok().context("a size is negative"),
            _ => bail!("a size is missing"),
        }
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.context("it is cut short")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn line(&mut self) -> Result<String> {
        let length = memchr::memchr(b'\n', &self.bytes[self.at..]).context("it is cut short")?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn push(&mut self, object: Object) {
        self.stack.push(self.objects.len() as Id);
        self.objects.push(object);
    }

    /// The height below which the stack belongs to what was begun before the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn last(&self) -> Result<Id> {
        self.stack.last().copied().filter(|_| self.stack.len() > self.floor()).context("its stack is empty")
    }

    fn pop(&mut self) -> Result<Id> {
        let last = self.last()?;
        self.stack.pop();
        Ok(last)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }
}

//! The allocator of the whole program: large blocks are kept and handed out again.
//!
//! A training step allocates and frees the same few dozen large buffers each time. Given back to the system, each of
//! their pages would have to be faulted in and zeroed again in the next step (measured: a third of the whole step).
//! Blocks of at least [`SMALLEST`] bytes are therefore kept in lists by size class; everything else goes straight to
//! the system's allocator. Kept blocks and those in use never take more than twice what was in use at once: the blocks of
//! a step, of which not all sizes are in use at its fullest moment, stay (with no such room the U-Net's inference takes up to
//! two thirds longer), and those of another phase go. A kept block may serve as one of down to half its size.
#![expect(unsafe_code, reason = "an allocator is unsafe by contract")]
#![expect(clippy::cast_ptr_alignment, reason = "blocks are aligned to cache lines")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// Smaller blocks are the system's business.
const SMALLEST: usize = 256 << 10;
/// Every kept block starts at a cache line.
const ALIGN: usize = 64;
/// Size classes per power of two: at most an eighth of a block is unused (and then never touched), half of one that is lent.
const STEPS: usize = 8;
/// Classes up to 2⁶³ bytes.
const CLASSES: usize = STEPS * 46;
/// Blocks that may be lent at a time.
const LENT: usize = 64;

struct Recycling(Mutex<Kept>);

/// The kept blocks: for each class a list that runs through the first word of each block.
struct Kept {
    heads: [*mut u8; CLASSES],
    /// Blocks that serve as smaller ones than they are, with the class that they belong to.
    lent: [(*mut u8, usize); LENT],
    /// Bytes in the lists.
    free: usize,
    /// Bytes in use.
    used: usize,
    /// The largest `used` so far.
    peak: usize,
    /// Whether the system's allocator was told to [map large blocks](map_large_blocks).
    told: bool,
}

/// Makes glibc give each large block pages of its own, which go back to the system with it. Left alone it moves the limit
/// up with the first block that is freed, and from then on takes large blocks from a heap that they riddle with holes: the
/// U-Net's inference held twice what it used. With a limit that stays, what else is free at the heap's end would stay at a
/// small one, too.
fn map_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: glibc takes both under a lock of its own, and the values are within their bounds.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, SMALLEST as libc::c_int);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 32 << 20);
    }
}

// SAFETY: the pointers are owned by the lists, which are only reached through the mutex.
unsafe impl Send for Kept {}

#[global_allocator]
static ALLOCATOR: Recycling = Recycling(Mutex::new(Kept::new()));

/// The class of a block of `size` ≥ [`SMALLEST`] bytes and the size of all blocks of that class.
fn class(size: usize) -> (usize, usize) {
    let octave = size.ilog2() as usize;
    let step = (1usize << octave) / STEPS;
    let steps = size.div_ceil(step);
    // steps is in STEPS..=2·STEPS; the last belongs to the next octave.
    let index = (octave - SMALLEST.ilog2() as usize) * STEPS + (steps - STEPS);
    (index, steps * step)
}

/// The size of the blocks of a class.
fn size_of_class(index: usize) -> usize {
    let octave = SMALLEST << (index / STEPS);
    octave + octave / STEPS * (index % STEPS)
}

fn is_kept(layout: Layout) -> bool {
    layout.size() >= SMALLEST && layout.align() <= ALIGN && layout.size() < 1 << 60
}

fn block_layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("sizes stay below 2⁶¹ bytes")
}

impl Kept {
    const fn new() -> Self {
        Self {
            heads: [ptr::null_mut(); CLASSES],
            lent: [(ptr::null_mut(), 0); LENT],
            free: 0,
            used: 0,
            peak: 0,
            told: false,
        }
    }

    fn pop(&mut self, index: usize, size: usize) -> Option<*mut u8> {
        let head = self.heads[index];
        if head.is_null() {
            return None;
        }
        // SAFETY: a block in a list holds the next one's address in its first word.
        self.heads[index] = unsafe { head.cast::<*mut u8>().read() };
        self.free -= size;
        Some(head)
    }

    /// A kept block of one of the classes up to twice the size of class `index`, and its size; it is lent.
    fn lend(&mut self, index: usize) -> Option<(*mut u8, usize)> {
        let place = self.lent.iter().position(|(block, _)| block.is_null())?;
        (index + 1..=index + STEPS).find_map(|larger| {
            let size = size_of_class(larger);
            let block = self.pop(larger, size)?;
            self.lent[place] = (block, larger);
            Some((block, size))
        })
    }

    /// The class of a block that comes back from use as one of class `index`.
    fn returned(&mut self, block: *mut u8, index: usize) -> usize {
        match self.lent.iter_mut().find(|(lent, _)| *lent == block) {
            Some((lent, class)) => {
                *lent = ptr::null_mut();
                *class
            }
            None => index,
        }
    }

    /// Gives all kept blocks back; what is in use now is the new peak.
    fn give_back(&mut self) {
        self.peak = 0;
        self.make_room(0);
        self.peak = self.used;
    }

    /// Gives kept blocks back until `size` more bytes fit under twice the peak.
    fn make_room(&mut self, size: usize) {
        for index in (0..CLASSES).rev() {
            while self.free > 0 && self.used + self.free + size > 2 * self.peak {
                let Some(block) = self.pop(index, size_of_class(index)) else { break };
                // SAFETY: the block came from the system with this layout and is in no list any more.
                unsafe { System.dealloc(block, block_layout(size_of_class(index))) };
            }
        }
    }
}

/// Gives what is kept back to the system, a GPU's memory to its driver, between two phases that work with blocks of other
/// sizes.
pub(crate) fn give_back_memory() {
    ALLOCATOR.0.lock().unwrap_or_else(PoisonError::into_inner).give_back();
    super::gpu::give_back();
}

impl Recycling {
    /// A block for `layout`; whether it is fresh from the system.
    fn take(&self, layout: Layout, zeroed: bool) -> (*mut u8, bool) {
        let (index, size) = class(layout.size());
        {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !kept.told {
                kept.told = true;
                map_large_blocks();
            }
            let found = kept.pop(index, size).map(|block| (block, size)).or_else(|| kept.lend(index));
            if found.is_none() {
                kept.make_room(size);
            }
            kept.used += found.map_or(size, |(_, size)| size);
            kept.peak = kept.peak.max(kept.used);
            if let Some((block, _)) = found {
                return (block, false);
            }
        }
        // SAFETY: the size is not zero.
        let block = unsafe {
            if zeroed { System.alloc_zeroed(block_layout(size)) } else { System.alloc(block_layout(size)) }
        };
        if block.is_null() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).used -= size;
        }
        (block, true)
    }
}

// SAFETY: blocks come from the system with at least the size and alignment asked for; whether a block is kept
// follows from its layout alone, which `dealloc` and `realloc` get again.
unsafe impl GlobalAlloc for Recycling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_kept(layout) {
            return self.take(layout, false).0;
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !is_kept(layout) {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        let (block, fresh) = self.take(layout, true);
        if !fresh && !block.is_null() {
            // SAFETY: the block has at least that many bytes.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !is_kept(layout) {
            // SAFETY: the caller's promise.
            return unsafe { System.dealloc(block, layout) };
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.returned(block, class(layout.size()).0);
        let size = size_of_class(index);
        // SAFETY: nobody uses the block any more, and its first word is within it and aligned.
        unsafe { block.cast::<*mut u8>().write(kept.heads[index]) };
        kept.heads[index] = block;
        kept.free += size;
        kept.used -= size;
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else { return ptr::null_mut() };
        match (is_kept(layout), is_kept(new)) {
            // SAFETY: the caller's promise.
            (false, false) => unsafe { System.realloc(block, layout, new_size) },
            (true, true) if class(layout.size()) == class(new_size) => block,
            _ => {
                // SAFETY: two different blocks of at least the smaller size.
                unsafe {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn classes_hold_what_they_are_asked_for() {
        let mut last = (0, 0);
        for size in (SMALLEST..SMALLEST * 9).step_by(4093) {
            let (index, bytes) = class(size);
            assert!(bytes >= size && bytes - size <= size / STEPS + 1, "{size} bytes in a block of {bytes}");
            assert!(
                index > last.0 && bytes > last.1 || (index, bytes) == last || last == (0, 0),
                "classes ascend"
            );
            assert_eq!(bytes, size_of_class(index), "an index names one size");
            last = (index, bytes);
        }
        assert_eq!(class(SMALLEST).0, 0, "the first class");
    }

    #[test]
    fn a_kept_block_serves_as_one_of_half_its_size_and_comes_back_as_what_it_is() {
        let memory = Recycling(Mutex::new(Kept::new()));
        let layout = |size: usize| Layout::from_size_align(size, 8).unwrap();
        let (large, middle, small) = (layout(8 * SMALLEST), layout(5 * SMALLEST), layout(3 * SMALLEST));
        let now = || {
            let kept = memory.0.lock().unwrap();
            (kept.used / SMALLEST, kept.free / SMALLEST)
        };
        // SAFETY: blocks are freed once, with the layout that they were asked for with.
        unsafe {
            let first = memory.alloc(large);
            memory.dealloc(first, large);
            let lent = memory.alloc(middle);
            assert_eq!((lent, now()), (first, (8, 0)), "five eighths of it are used, all of it is held");
            let other = memory.alloc(large);
            assert_ne!(other, first, "nobody else has it meanwhile");
            memory.dealloc(lent, middle);
            let third = memory.alloc(small);
            assert_ne!(third, first, "it is too large for this");
            let again = memory.alloc_zeroed(large);
            assert_eq!((again, now()), (first, (19, 0)), "it is a large one again");
            assert!(std::slice::from_raw_parts(again, large.size()).iter().all(|byte| *byte == 0));
            for (block, layout) in [(again, large), (other, large), (third, small)] {
                memory.dealloc(block, layout);
            }
        }
        memory.0.lock().unwrap().give_back();
        assert_eq!(now(), (0, 0));
    }

    #[test]
    fn kept_blocks_stay_within_twice_what_was_used_at_once() {
        for round in 0..400 {
            // Other sizes in each phase, so that kept blocks do not serve the next one.
            let size = SMALLEST + (round / 20) * SMALLEST / 3;
            drop(black_box((vec![1u8; size], vec![1u8; 2 * size])));
            // Nothing is asserted under the lock: a message may want memory.
            let now = |kept: &Kept| (kept.used, kept.free, kept.peak);
            let (used, free, peak) = now(&ALLOCATOR.0.lock().unwrap());
            assert!(used + free <= 2 * peak, "{used} + {free} of {peak}");
        }
        let (told, free, used, peak) = {
            let mut kept = ALLOCATOR.0.lock().unwrap();
            kept.give_back();
            (kept.told, kept.free, kept.used, kept.peak)
        };
        assert!(told, "the system's allocator maps large blocks");
        assert_eq!((free, peak), (0, used), "nothing is left but what is in use");
    }

    #[test]
    fn blocks_come_back_zeroed_and_keep_their_content_when_they_grow() {
        let size = SMALLEST + 12_345;
        for round in 0..3u8 {
            let mut block = vec![0u8; size];
            assert!(block.iter().all(|b| *b == 0), "zeroed memory is zero in round {round}");
            block.fill(7 + round);
            block.resize(3 * size, 1);
            assert!(block[..size].iter().all(|b| *b == 7 + round), "content moves along");
            block.truncate(100);
            block.shrink_to_fit();
            assert_eq!(block, [7 + round; 100], "also into a small block");
        }
    }
}

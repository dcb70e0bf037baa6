//! What the tests of networks share: fixtures of PyTorch (`scripts/fixtures_nn.py`) and weights that both sides
//! compute from the parameters' names, so that no fixture holds weights.

use std::collections::BTreeMap;
use std::ops::Index;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::params::Params;
use crate::ops::Gradients;

/// The tensors of `tests/fixtures/NAME.safetensors`.
pub(crate) struct Fixture(BTreeMap<String, Tensor>);

impl Index<&str> for Fixture {
    type Output = Tensor;

    fn index(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the fixture has no `{name}`"))
    }
}

impl Fixture {
    /// The fixture called `name`.
    pub(crate) fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        Self(super::file::read(&folder.join(format!("{name}.safetensors"))).unwrap())
    }

    /// Whether there is a tensor called `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The whole number called `name`.
    pub(crate) fn number(&self, name: &str) -> usize {
        self[name].to_scalar::<i64>().unwrap() as usize
    }

    /// The names of the parameters, in PyTorch's order.
    pub(crate) fn names(&self) -> Vec<String> {
        let text = String::from_utf8(self["names"].to_vec1::<u8>().unwrap()).unwrap();
        text.split('\n').map(str::to_owned).collect()
    }

    /// Every trainable parameter's gradient has PyTorch's norm and PyTorch's product with a fixed vector.
    pub(crate) fn check_gradients(&self, params: &Params, gradients: &Gradients, tolerance: f64) {
        let expected = |name| self[name].to_vec1::<f64>().unwrap();
        let (norms, dots) = (expected("grad_norm"), expected("grad_dot"));
        let largest = norms.iter().fold(0f64, |max, norm| max.max(*norm));
        for (at, name) in self.names().iter().enumerate() {
            let tensor = params.get(name).unwrap_or_else(|| panic!("no parameter `{name}`"));
            let gradient = gradients.get(tensor).unwrap_or_else(|| panic!("no gradient of `{name}`"));
            assert_eq!(gradient.dims(), tensor.dims(), "shape of the gradient of `{name}`");
            let gradient = vec64(gradient);
            let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            let dot: f64 = gradient.iter().zip(uniform(&format!("v:{name}"))).map(|(g, v)| g * v).sum();
            // Convolution biases before a batch norm have no gradient but rounding errors.
            let allowed = tolerance * norms[at] + 1e-6 * largest;
            assert!((norm - norms[at]).abs() <= allowed, "`{name}`: norm {norm}, PyTorch {}", norms[at]);
            assert!((dot - dots[at]).abs() <= allowed, "`{name}`: product {dot}, PyTorch {}", dots[at]);
        }
    }
}

/// The input called `name`, as the script computes it too: values in [−1, 1).
pub(crate) fn values(name: &str, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = uniform(name).take(shape.iter().product()).map(|u| u as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// All values of `tensor`.
pub(crate) fn vec64(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `actual` is `expected` within `tolerance` times the largest expected value.
pub(crate) fn close(actual: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(actual.dims(), expected.dims(), "shape of {what}");
    let (actual, expected) = (vec64(actual), vec64(expected));
    let largest = expected.iter().fold(0f64, |max, value| max.max(value.abs()));
    for (at, (a, e)) in actual.iter().zip(&expected).enumerate() {
        assert!(
            (a - e).abs() <= tolerance * largest,
            "{what}: {a} at {at}, expected {e} (largest {largest})"
        );
    }
}

/// Endless values in [−1, 1) that depend on `name` alone.
pub(crate) fn uniform(name: &str) -> impl Iterator<Item = f64> + use<> {
    let start = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3));
    (0u64..).map(move |i| {
        let mut z = start.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

/// Overwrites every value with the one that the script gives it too.
pub(crate) fn fill(params: &Params) {
    let filled = params.named().map(|(name, tensor)| {
        let dims = tensor.dims();
        let fan_in: usize = dims[1..].iter().product();
        let (centre, bound) = match name {
            _ if dims.len() > 1 => (0.0, (3.0 / fan_in as f64).sqrt()),
            _ if name.ends_with("running_var") => (1.0, 0.5),
            _ if name.ends_with("weight") => (1.0, 0.2),
            _ => (0.0, 0.1),
        };
        let values: Vec<f32> =
            uniform(name).take(tensor.elem_count()).map(|u| (centre + bound * u) as f32).collect();
        (name.to_owned(), Tensor::from_vec(values, dims, &Device::Cpu).unwrap())
    });
    params.load(&filled.collect()).unwrap();
}

//! Elementary functions that vectorise, and sums of fixed order.
#![expect(clippy::inline_always, reason = "part of functions that are compiled once per kind of vector")]

/// eˣ to about 1 ulp (Cephes' reduction and polynomial); 0 below −87.3, e^88.7 above 88.7.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.37);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let power = (rounded.to_bits() as i32).wrapping_sub(0x4B40_0000);
    let n = rounded - ROUND;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_65;
    let p = p * r + 0.5;
    let value = p * (r * r) + r + 1.0;
    let scale = f32::from_bits((power.wrapping_add(127) << 23) as u32);
    if x < -87.3 { 0.0 } else { value * scale }
}

/// ln x for positive normal x to about 1 ulp (Cephes).
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    let bits = x.to_bits() as i32;
    // The mantissa in [√½, √2) and its exponent.
    let shifted = bits.wrapping_sub(0x3F35_04F3);
    let e = (shifted >> 23) as f32;
    let m = f32::from_bits(bits.wrapping_sub(shifted & !0x7F_FFFF) as u32) - 1.0;
    let z = m * m;
    let p = 7.037_683_6e-2;
    let p = p * m - 0.115_146_1;
    let p = p * m + 0.116_769_984;
    let p = p * m - 0.124_201_41;
    let p = p * m + 0.142_493_23;
    let p = p * m - 0.166_680_57;
    let p = p * m + 0.200_007_15;
    let p = p * m - 0.249_999_94;
    let p = p * m + 0.333_333_3;
    let y = p * m * z + e * -2.121_944_4e-4 - 0.5 * z;
    m + y + e * 0.693_359_4
}

/// 1/(1 + e⁻ˣ).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The lanes of a running sum, side by side whatever the machine, so that all machines add alike: four long vectors,
/// which hides the latency of an addition.
pub(super) const LANES: usize = 64;

/// Σ f(i) over `0..len` in [`LANES`] lanes.
#[inline(always)]
pub(super) fn lane_sum(len: usize, f: impl Fn(usize) -> f32) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
        start += LANES;
    }
    let mut sum: f64 = lanes.iter().map(|&lane| f64::from(lane)).sum();
    for i in whole..len {
        sum += f64::from(f(i));
    }
    sum
}

/// Two sums of [`lane_sum`] at once.
#[inline(always)]
pub(super) fn lane_sum2(len: usize, f: impl Fn(usize) -> (f32, f32)) -> (f64, f64) {
    let (mut firsts, mut seconds) = ([0.0f32; LANES], [0.0f32; LANES]);
    let whole = len / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for (lane, (a, b)) in firsts.iter_mut().zip(&mut seconds).enumerate() {
            let (first, second) = f(start + lane);
            *a += first;
            *b += second;
        }
        start += LANES;
    }
    let total = |lanes: [f32; LANES]| lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    let mut sums = (total(firsts), total(seconds));
    for i in whole..len {
        let (first, second) = f(i);
        sums = (sums.0 + f64::from(first), sums.1 + f64::from(second));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_are_accurate() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01 + 0.003;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) / right - 1.0).abs() < 2.5e-7, "exp({x})");
            let y = (right as f32).max(f32::MIN_POSITIVE);
            let right = f64::from(y).ln();
            assert!((f64::from(ln(y)) - right).abs() < 2e-7 * right.abs().max(0.5), "ln({y})");
        }
        assert_eq!(exp(-200.0), 0.0, "far below zero");
    }
}

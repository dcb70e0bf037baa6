//! The ops of the methods' losses and of the Swin-Unet against central differences; their values stand against PyTorch in
//! the tests of [`crate::methods`] and of [`crate::nn`].

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::finite::check;
use super::{random, random_classes, values};
use crate::ops::{Mode, Rearrangement, Tape, Windows};

#[test]
fn over_some_pixels() {
    let x = [random(1, &[2, 3, 2, 3])];
    let (target, keep) = (random_classes(1, &[2, 2, 3], 3), random_classes(2, &[2, 2, 3], 2));
    check("cross_entropy_kept", &x, |t, v| t.cross_entropy_kept(&v[0], &target, &keep));
    let other = random(3, &[2, 3, 2, 3]);
    check("squares", &x, |t, v| t.squares(&v[0], &other, None, 0.1));
    check("squares of kept pixels", &x, |t, v| t.squares(&v[0], &other, Some(&keep), 0.3));
    check("times", &x, |t, v| t.times(&v[0], &other));
    check("gather_pixels", &x, |t, v| t.gather_pixels(&v[0], &[(1, 4), (0, 0), (1, 2)]));
}

#[test]
fn among_predictions() {
    let x = [random(1, &[2, 3, 2, 3]), random(2, &[2, 3, 2, 3]), random(3, &[2, 3, 2, 3])];
    check("pyramid_consistency", &x, Tape::pyramid_consistency);
    // A mild temperature: central differences do not follow the sharpening's steep ones.
    check("mutual_consistency", &x, |t, v| t.mutual_consistency(v, 0.7));
    let x = [random(1, &[1, 2, 4, 5])];
    let target = random(4, &[1, 2, 4, 5]);
    check("dissimilarity", &x, |t, v| t.dissimilarity(&v[0], &target));
    let x = [random(1, &[5, 3]), random(2, &[5, 3])];
    check("info_nce", &x, |t, v| t.info_nce(&v[0], &v[1], &[0, 1, 0, 2, 1], 0.5));
}

#[test]
fn on_tokens() {
    let x = [random(1, &[3, 6]), random(2, &[6]), random(3, &[6])];
    check("layer_norm", &x, |t, v| t.layer_norm(&v[0], &v[1], &v[2], 1e-5));
    let how = Rearrangement::new(vec![2, 0, 1]).unwrap();
    check("rearrange", &[random(1, &[2, 3, 2])], |t, v| t.rearrange(&v[0], &how, 2, (6, 2)));
    for regions in [vec![], vec![0, 0, 1, 1, 2, 3, 2, 3]] {
        let windows = Windows::new(2, regions).unwrap();
        let x = [random(1, &[16, 12]), random(2, &[9, 2])];
        check("window_attention", &x, |t, v| t.window_attention(&v[0], &v[1], &windows, 2));
    }
}

#[test]
fn a_rearrangement_and_its_inverse_are_nothing() -> Result<()> {
    let x = random(1, &[2, 4, 3]);
    let how = Rearrangement::new(vec![3, 1, 0, 2])?;
    let tape = Tape::new(Mode::Eval, 0);
    let moved = tape.rearrange(&tape.constant(&x), &how, 3, (2, 4, 3))?;
    assert_eq!(values(moved.value())[..3], values(&x)[9..12], "row 3 comes first");
    assert_eq!(values(tape.rearrange(&moved, &how.inverse(), 3, (2, 4, 3))?.value()), values(&x));
    assert!(Rearrangement::new(vec![0, 0]).is_err() && Rearrangement::new(vec![1, 2]).is_err());
    Ok(())
}

#[test]
fn extreme_logits_stay_finite() -> Result<()> {
    let big: Vec<f32> = (0..24).map(|i| if i % 5 == 0 { 80.0 } else { -80.0 }).collect();
    let x = Tensor::from_vec(big, (1, 4, 2, 3), &Device::Cpu)?;
    let target = random_classes(1, &[1, 2, 3], 4);
    let tape = Tape::new(Mode::Train, 0);
    let (a, b) = (tape.param(&x), tape.param(&random(2, &[1, 4, 2, 3])));
    let terms = [
        tape.pyramid_consistency(&[a.clone(), b.clone()])?,
        tape.mutual_consistency(&[a.clone(), b], 0.1)?,
        tape.cross_entropy_kept(&a, &target, &target)?,
    ];
    let total = tape.weighted_sum(&terms.iter().map(|term| (1.0, term)).collect::<Vec<_>>())?;
    assert!(total.scalar()?.is_finite());
    let gradients = tape.backward(&total)?;
    assert!(values(gradients.get(&x).expect("a gradient")).iter().all(|g| g.is_finite()));
    Ok(())
}

//! Every method besides MCSD against PyTorch (`scripts/fixtures_methods.py`): value and gradient from fixed network
//! outputs, and what goes into them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};

use crate::methods::average::Average;
use crate::methods::bcp::{Mask, mixed};
use crate::methods::cps::Against;
use crate::methods::unimatch::Outputs;
use crate::methods::{Step, bcp, components, cps, mc_net, mcsd, mean_teacher, ramp, sc_ssl, supervised_loss};
use crate::methods::{ua_mt, unimatch, urpc};
use crate::nn::params::{Builder, Init};
use crate::ops::{Gradients, Mode, Sgd, Tape, Var};
use crate::spec::settings::{ConsistencySettings, FeatureLoss, SupervisedLoss, TeacherSettings, TestStream};

struct Fixture(BTreeMap<String, Tensor>);

/// A case under computation.
struct Case<'a> {
    fixture: &'a Fixture,
    name: &'a str,
    tape: Tape,
}

impl Fixture {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/methods_others.safetensors");
        let found = candle_core::safetensors::load(path, &Device::Cpu).expect("the fixture is committed");
        Self(found.into_iter().collect())
    }

    fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the fixture has no `{name}`"))
    }

    /// Computes the loss of a case and compares it and the gradient of every input that has one.
    fn check(&self, name: &str, loss: impl Fn(&Case) -> Result<Var>) {
        let case = Case { fixture: self, name, tape: Tape::new(Mode::Train, 0) };
        let total = loss(&case).unwrap();
        let expected = f64::from(values(self.get(&format!("{name}/loss")))[0]);
        let found = f64::from(total.scalar().unwrap());
        assert!((found - expected).abs() < 1e-5, "{name}: loss {found}, PyTorch {expected}");
        let gradients = case.tape.backward(&total).unwrap();
        let prefix = format!("{name}/grad/");
        let mut seen = 0;
        for (key, expected) in &self.0 {
            let Some(input) = key.strip_prefix(&prefix) else { continue };
            let found = gradients.get(self.get(&format!("{name}/in/{input}")));
            let found = values(found.unwrap_or_else(|| panic!("{name}: no gradient of {input}")));
            let expected = values(expected);
            let size = expected.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                let error = (found - expected).abs();
                assert!(
                    error <= 1e-5 * size.max(1e-2),
                    "{name}: gradient of {input}: {found}, PyTorch {expected}"
                );
            }
            seen += 1;
        }
        assert!(seen > 0, "{name} has gradients to compare");
    }
}

impl Case<'_> {
    fn tensor(&self, name: &str) -> &Tensor {
        self.fixture.get(&format!("{}/in/{name}", self.name))
    }

    fn var(&self, name: &str) -> Var {
        self.tape.param(self.tensor(name))
    }

    fn vars(&self, name: &str, count: usize) -> Vec<Var> {
        (0..count).map(|k| self.var(&format!("{name}{k}"))).collect()
    }

    fn supervised(&self) -> Var {
        supervised_loss(&self.tape, &self.var("labelled"), self.tensor("target"), LOSS).unwrap()
    }

    /// Each of two networks' logits of labelled and unlabelled images.
    fn outputs(&self) -> [[Var; 2]; 2] {
        [0, 1].map(|k: usize| ["labelled", "free"].map(|what| self.var(&format!("{what}{k}"))))
    }
}

const LOSS: SupervisedLoss = SupervisedLoss::CeDice;

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn bytes(t: &Tensor) -> Vec<u8> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn weight(index: usize, total: usize, delay: usize) -> f64 {
    ramp::weight(&ConsistencySettings { delay, ..ConsistencySettings::default() }, Step { index, total })
}

#[test]
fn ramps() {
    let fixture = Fixture::open();
    let steps: Vec<i64> = fixture.get("ramp/steps").to_vec1().unwrap();
    let expected: Vec<f64> = fixture.get("ramp/weights").to_vec1().unwrap();
    for (step, expected) in steps.iter().zip(expected) {
        assert!((weight(*step as usize, 30_000, 0) - expected).abs() < 1e-12, "step {step}");
    }
    assert_eq!((weight(999, 30_000, 1000), weight(1000, 30_000, 1000) > 0.0), (0.0, true));
    let flat = ConsistencySettings { ramp: 0.0, ..ConsistencySettings::default() };
    assert_eq!(ramp::weight(&flat, Step { index: 0, total: 9 }), 0.1, "no ramp");
    assert!((weight(200, 200, 0) - 0.1).abs() < 1e-12, "short trainings have the whole ramp");
}

#[test]
fn mean_teachers() {
    let fixture = Fixture::open();
    fixture.check("mean_teacher", |case| {
        let term = mean_teacher::consistency(&case.tape, &case.var("free"), case.tensor("taught"))?;
        case.tape.weighted_sum(&[(1.0, &case.supervised()), (weight(12_345, 30_000, 1000), &term)])
    });
    let step = Step { index: 777, total: 3000 };
    let sure = ua_mt::certain(fixture.get("ua_mt/in/mean"), step).unwrap();
    assert_eq!(bytes(&sure), bytes(fixture.get("ua_mt/mask")), "the sure pixels");
    fixture.check("ua_mt", |case| {
        let term = ua_mt::consistency(&case.tape, &case.var("free"), case.tensor("taught"), &sure)?;
        case.tape.weighted_sum(&[(1.0, &case.supervised()), (weight(777, 3000, 0), &term)])
    });
}

#[test]
fn moving_averages() {
    let fixture = Fixture::open();
    let (start, students) = (fixture.get("average/start"), fixture.get("average/students"));
    for (name, warm_up, buffers) in [("warm", true, false), ("constant", false, true)] {
        let mut builder = Builder::new(0);
        for scope in ["f", "teacher"] {
            let build = |b: &mut Builder| {
                b.param("weight", &[2, 5], Init::Constant(0.0))?;
                b.buffer("mean", &[2, 5], Init::Constant(0.0))
            };
            if scope == "f" {
                builder.within(scope, build)
            } else {
                builder.frozen(|b| b.within(scope, build))
            }
            .unwrap();
        }
        let params = builder.finish();
        let average = Average::of(&params, &TeacherSettings { ema: 0.99, warm_up, buffers }).unwrap();
        let set = |scope: &str, value: &Tensor| {
            let named = params.named().map(|(name, old)| {
                let new =
                    if name.starts_with(scope) { value.contiguous().unwrap() } else { old.copy().unwrap() };
                (name.to_owned(), new)
            });
            params.load(&named.collect()).unwrap();
        };
        set("teacher", start);
        for index in 0..3 {
            set("f.", &students.get(index).unwrap());
            // Without gradients the student stays, and the teacher follows.
            let (mut sgd, none, step) = (Sgd::new(0.9, 0.0), Gradients::default(), Step { index, total: 3 });
            average.follow(&mut sgd, params.trainable(), &none, 0.1, step).unwrap();
        }
        let close = |name: &str, expected: &[f32]| {
            let found = values(params.get(name).unwrap());
            found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
        };
        let expected = values(fixture.get(&format!("average/{name}")));
        assert!(close("teacher.weight", &expected), "{name}: weights");
        let expected = if buffers { expected } else { values(start) };
        assert!(close("teacher.mean", &expected), "{name}: statistics");
        average.copy(params.trainable()).unwrap();
        let last = values(&students.get(2).unwrap());
        assert!(close("teacher.weight", &last) && close("teacher.mean", &last), "a copy takes all");
    }
}

#[test]
fn pyramids() {
    Fixture::open().check("urpc", |case| {
        let (labelled, free) = (case.vars("labelled", 4), case.vars("free", 4));
        let weight = weight(20_000, 30_000, 0);
        Ok(urpc::step_loss(&case.tape, &labelled, &free, case.tensor("target"), weight, LOSS)?.total)
    });
}

#[test]
fn cross_supervision() {
    let fixture = Fixture::open();
    for (name, against) in [("cps", Against::CrossEntropy), ("cross_teaching", Against::Dice)] {
        fixture.check(name, |case| {
            let weight = weight(29_000, 30_000, 0);
            let target = case.tensor("target");
            Ok(cps::step_loss(&case.tape, &case.outputs(), target, weight, LOSS, against)?.total)
        });
    }
}

#[test]
fn mutual_consistency_with_sharpening() {
    let fixture = Fixture::open();
    for decoders in [2, 3] {
        fixture.check(&format!("mc_net{decoders}"), |case| {
            let all = case.vars("all", decoders);
            let (weight, loss) = (weight(15_001, 30_000, 0), SupervisedLoss::HalfDice);
            Ok(mc_net::step_loss(&case.tape, &all, case.tensor("target"), weight, loss)?.total)
        });
    }
}

#[test]
fn copy_paste() {
    Fixture::open().check("bcp", |case| {
        let stays = case.tensor("mask").clone();
        let comes =
            Tensor::from_vec(bytes(&stays).iter().map(|m| 1 - m).collect(), stays.dims(), &Device::Cpu)?;
        let labels = [case.tensor("stays"), case.tensor("comes")];
        mixed(&case.tape, &case.var("logits"), &Mask { stays, comes }, labels, [0.5, 1.0])
    });
}

#[test]
fn the_copied_box_is_two_thirds_wide_and_the_same_for_all_images() {
    let mut corners = std::collections::BTreeSet::new();
    for index in 0..200 {
        let mask = Mask::draw(&mut crate::rng::stream(0, "test", index), 2, 24).unwrap();
        let (stays, comes) = (bytes(&mask.stays), bytes(&mask.comes));
        assert!(stays.iter().zip(&comes).all(|(a, b)| a + b == 1));
        assert_eq!(stays[..576], stays[576..]);
        let inside: Vec<usize> = (0..576).filter(|at| comes[*at] == 1).collect();
        assert_eq!(inside.len(), 256, "16×16 of 24×24");
        assert_eq!(inside[255], inside[0] + 15 * 24 + 15, "a square");
        corners.insert((inside[0] / 24, inside[0] % 24));
    }
    let (rows, columns): (Vec<_>, Vec<_>) = corners.iter().copied().unzip();
    assert_eq!((rows.iter().max(), columns.iter().max()), (Some(&7), Some(&7)), "corners in 0..8");
    let mask = Mask::draw(&mut crate::rng::stream(0, "test", 0), 1, 256).unwrap();
    assert_eq!(bytes(&mask.comes).iter().map(|m| usize::from(*m)).sum::<usize>(), 170 * 170);
}

#[test]
fn largest_components() {
    let fixture = Fixture::open();
    let found = components::largest(fixture.get("components/in")).unwrap();
    assert_eq!(bytes(&found), bytes(fixture.get("components/out")));
    assert_ne!(bytes(&found), bytes(fixture.get("components/in")), "something is dropped");
}

#[test]
fn self_correction() {
    let fixture = Fixture::open();
    fixture.check("sc_ssl", |case| {
        let (corrected, goal) = (case.var("corrected"), case.tensor("goal"));
        let (weight, target) = (weight(25_000, 30_000, 0), case.tensor("target"));
        Ok(sc_ssl::step_loss(&case.tape, &case.outputs(), &corrected, goal, target, weight, LOSS)?.total)
    });
    fixture.check("contrast", |case| {
        case.tape.info_nce(&case.var("a"), &case.var("b"), &bytes(case.tensor("classes")), 0.1)
    });
}

#[test]
fn contrast_takes_sure_pixels_of_each_class_once() {
    let logits = (Tensor::randn(0f32, 4.0, (2, 4, 24, 24), &Device::Cpu)).unwrap();
    let step = Step { index: 3, total: 9 };
    let chosen = sc_ssl::choose(&logits, 0, step).unwrap();
    let (label, sure) = crate::ops::softmax_confidence(&logits).unwrap();
    let (label, sure) = (bytes(&label), values(&sure));
    for class in 0..4 {
        let expected = (0..label.len()).filter(|at| label[*at] == class && sure[*at] > 0.9).count().min(64);
        let found = chosen.classes.iter().map(|c| usize::from(*c == class)).sum::<usize>();
        assert_eq!(found, expected, "class {class}");
    }
    let mut places = chosen.pixels.clone();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), chosen.pixels.len(), "none twice");
    for ((image, at), class) in chosen.pixels.iter().zip(&chosen.classes) {
        assert!(label[image * 576 + at] == *class && sure[image * 576 + at] > 0.9);
    }
    assert_eq!(chosen.pixels, sc_ssl::choose(&logits, 0, step).unwrap().pixels, "the same again");
}

#[test]
fn unimatch_with_feature_perturbation() {
    Fixture::open().check("unimatch", |case| {
        let out = Outputs {
            labelled: case.var("labelled"),
            weak: case.tape.constant(case.tensor("weak")),
            perturbed: case.var("perturbed"),
            strong: [case.var("strong0"), case.var("strong1")],
            partner: case.tensor("partner").clone(),
        };
        let pasted = [0, 1].map(|k| case.tensor("pasted").get(k).unwrap());
        Ok(unimatch::step_loss(&case.tape, &out, case.tensor("target"), &pasted, 0.6, LOSS)?.total)
    });
}

#[test]
fn mcsd_with_feature_perturbation() {
    Fixture::open().check("mcsd_perturbed", |case| {
        let out = mcsd::Outputs {
            f_labelled: case.var("labelled"),
            f_weak: Some(case.tape.constant(case.tensor("weak"))),
            f_perturbed: Some(case.var("perturbed")),
            f_strong: None,
            f_partner: None,
            g: None,
        };
        let config = mcsd::Config {
            loss: LOSS,
            tau: 0.6,
            dic: false,
            feature_loss: FeatureLoss::Mutual,
            test_stream: TestStream::Image,
            feature_dropout: true,
        };
        Ok(mcsd::step_loss(&case.tape, config, &out, case.tensor("target"), None)?.total)
    });
}

#[test]
fn halves_need_an_even_batch() {
    let odd = Tensor::zeros((3, 1, 4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = bcp::halves(&odd).unwrap_err().to_string();
    assert!(error.contains("train.batch"), "{error}");
}

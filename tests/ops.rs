//! Guards the fused operations: their gradients against central differences, and
//! attention against a plain one that is written out in f64.

mod common;

use std::sync::Arc;

use candle_core::{Tensor, Var};
use common::{distance, largest, normal, tensor, values};
use cotalign::model::LoraConfig;
use cotalign::model::Weight;
use cotalign::model::ops::{
    AttentionShape, Continuation, Dropout, Memory, Rope, Segment, attention, cached_attention,
    frequencies, linear, log_prob, log_sigmoid, lora_linear, rms_norm, swiglu,
};
use cotalign::tune::loss::{Example, sft, token_log_probs};

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Tensor;

/// `Σ w ⊙ y` in f64.
fn weighted(y: &Tensor, w: &[f32]) -> f64 {
    values(y).iter().zip(w).map(|(y, w)| *y as f64 * *w as f64).sum()
}

/// Holds the gradient of `Σ w ⊙ op(inputs)`, `w` random, against central
/// differences in every value of every input.
fn check_gradients(what: &str, inputs: &[Tensor], op: Op) {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let all: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = op(&all);
    let w = normal(y.elem_count(), 77);
    let weights = Tensor::from_vec(w.clone(), y.shape(), y.device()).unwrap();
    let store = (y * weights).unwrap().sum_all().unwrap().backward().unwrap();
    const STEP: f32 = 1e-2;
    for (at, input) in inputs.iter().enumerate() {
        let ours = values(store.get(&vars[at]).unwrap_or_else(|| panic!("{what}: input {at}")));
        let x = values(input);
        let loss_with = |i: usize, value: f32| {
            let mut x = x.clone();
            x[i] = value;
            let moved = Var::from_vec(x, input.shape(), input.device()).unwrap();
            let mut all = all.clone();
            all[at] = moved.as_tensor().clone();
            weighted(&op(&all), &w)
        };
        let numeric: Vec<f32> = (0..x.len())
            .map(|i| {
                let (above, below) = (x[i] + STEP, x[i] - STEP);
                let difference = loss_with(i, above) - loss_with(i, below);
                (difference / (above as f64 - below as f64)) as f32
            })
            .collect();
        let scale = largest(&numeric);
        let off = distance(&ours, &numeric);
        assert!(scale > 1e-2, "{what}, input {at}: nothing to check");
        assert!(off < 5e-3 * scale, "{what}, input {at}: off by {off} of {scale}");
    }
}

fn random(rows: usize, cols: usize, seed: u64) -> Tensor {
    tensor(normal(rows * cols, seed), rows, cols)
}

#[test]
fn gradients_of_rms_norm() {
    // 21 columns: a whole block of 16 lanes and a remainder.
    let w = (random(1, 21, 2).flatten_all().unwrap() * 0.3).unwrap();
    let w = (w + 1.0).unwrap();
    check_gradients("rms_norm", &[random(4, 21, 1), w.clone()], &|t| {
        rms_norm(&t[0], &t[1], 1e-5, true).unwrap()
    });
    check_gradients("rms_norm, frozen", &[random(4, 21, 1)], &|t| {
        rms_norm(&t[0], &w, 1e-5, false).unwrap()
    });
}

#[test]
fn gradients_of_swiglu() {
    let inputs = [(random(5, 19, 3) * 2.0).unwrap(), random(5, 19, 4)];
    check_gradients("swiglu", &inputs, &|t| swiglu(&t[0], &t[1]).unwrap());
}

#[test]
fn gradients_of_log_prob() {
    let labels = [3, 0, 22, 22, 7];
    check_gradients("log_prob", &[random(5, 23, 5)], &|t| log_prob(&t[0], &labels).unwrap());
}

#[test]
fn log_prob_equals_its_definition() {
    let z = (random(6, 37, 6) * 8.0).unwrap();
    let labels = [0, 36, 5, 17, 1, 1];
    let ours = values(&log_prob(&z, &labels).unwrap());
    let rows = z.to_vec2::<f32>().unwrap();
    let plain: Vec<f32> = rows
        .iter()
        .zip(labels)
        .map(|(row, label)| {
            let total: f64 = row.iter().map(|z| (*z as f64).exp()).sum();
            (row[label as usize] as f64 - total.ln()) as f32
        })
        .collect();
    assert!(distance(&ours, &plain) < 1e-5);
    assert!(log_prob(&z, &labels[1..]).is_err(), "five labels for six rows");
    assert!(log_prob(&z, &[0, 0, 0, 0, 0, 37]).is_err(), "a label outside the vocabulary");
}

/// DPO starts where every argument is exactly 0.
#[test]
fn gradients_of_log_sigmoid() {
    let x = [normal(12, 30), vec![0.0; 4], vec![-9.0, -30.0, 3.0, 0.001]].concat();
    let x = tensor(x, 4, 5);
    check_gradients("log_sigmoid", std::slice::from_ref(&x), &|t| log_sigmoid(&t[0]).unwrap());
    let plain = |x: &f32| -(1.0 + (-*x as f64).exp()).ln() as f32;
    let expected: Vec<f32> = values(&x).iter().map(plain).collect();
    assert!(distance(&values(&log_sigmoid(&x).unwrap()), &expected) < 1e-6);
    let zeros = Var::from_tensor(&tensor(vec![0.0; 6], 2, 3)).unwrap();
    let store = log_sigmoid(&zeros).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(values(store.get(&zeros).unwrap()), [0.5; 6]);
    let far = tensor(vec![-200.0, 200.0], 1, 2);
    assert_eq!(values(&log_sigmoid(&far).unwrap()), [-200.0, 0.0]);
}

#[test]
fn gradients_of_linear() {
    let (x, w) = (random(5, 12, 7), random(9, 12, 8));
    check_gradients("linear", &[x.clone(), w.clone()], &|t| {
        linear(&t[0], &Weight::Dense(t[1].clone())).unwrap()
    });
    let dense = Weight::Dense(w);
    let nf4 = dense.quantised().unwrap();
    for (what, weight) in [("frozen", &dense), ("nf4", &nf4)] {
        check_gradients(what, std::slice::from_ref(&x), &|t| linear(&t[0], weight).unwrap());
    }
}

#[test]
fn gradients_of_lora_linear() {
    let dense = Weight::Dense(random(9, 12, 9));
    let nf4 = dense.quantised().unwrap();
    let inputs = [random(6, 12, 10), random(3, 12, 11), random(9, 3, 12)];
    let dropout = Some(Dropout { p: 0.4, key: 5 });
    for (what, weight, dropout) in [
        ("lora", &dense, None),
        ("lora on nf4", &nf4, None),
        ("lora with dropout", &dense, dropout),
        ("lora on nf4 with dropout", &nf4, dropout),
    ] {
        check_gradients(what, &inputs, &|t| {
            lora_linear(&t[0], weight, &t[1], &t[2], 2.0, dropout, false).unwrap()
        });
        // They do not need the result.
        let gradients = |unread| {
            let vars = inputs.each_ref().map(|t| Var::from_tensor(t).unwrap());
            let y = lora_linear(&vars[0], weight, &vars[1], &vars[2], 2.0, dropout, unread);
            let upstream = random(6, 9, 13);
            // The gradient at y is `upstream`, whatever y is.
            let store = (y.unwrap() * upstream).unwrap().sum_all().unwrap().backward().unwrap();
            vars.map(|v| values(store.get(&v).unwrap()))
        };
        assert_eq!(gradients(true), gradients(false), "{what}");
    }
}

/// Dropout with keep rate q zeroes about 1 − q of the values, scales the rest by
/// 1/q, and is a function of its key. An adapter with A and B the identity on a
/// zero weight shows the mask itself.
#[test]
fn dropout_keeps_the_mean_and_follows_its_key() {
    let n = 64;
    let one = Tensor::eye(n, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let zero = Weight::Dense(one.zeros_like().unwrap());
    let x = tensor(vec![1.0; 100 * n], 100, n);
    let mask = |key| {
        let dropout = Some(Dropout { p: 0.25, key });
        values(&lora_linear(&x, &zero, &one, &one, 1.0, dropout, false).unwrap())
    };
    let seen = mask(1);
    let kept = seen.iter().filter(|x| **x != 0.0).count();
    assert!(seen.iter().all(|x| *x == 0.0 || (*x - 1.0 / 0.75).abs() < 1e-6));
    // Six standard deviations of a binomial count: 6 √(6400 · 0.25 · 0.75) = 208.
    assert!(kept.abs_diff(4800) < 208, "{kept}");
    assert_eq!(seen, mask(1));
    assert_ne!(seen, mask(2));
}

fn shape(heads: usize, kv_heads: usize, window: Option<usize>) -> AttentionShape {
    let rope = Rope::new(64, &frequencies(6, 100.0));
    AttentionShape { heads, kv_heads, head_dim: 6, window, rope }
}

fn segments(lens: &[usize]) -> Arc<[Segment]> {
    let mut start = 0;
    let each = lens.iter().map(|&len| {
        start += len;
        Segment { start: start - len, len }
    });
    each.collect()
}

#[test]
fn gradients_of_attention() {
    let parts = segments(&[5, 1, 4]);
    for (what, heads, kv_heads, window) in [
        ("attention", 2, 2, None),
        ("grouped-query attention", 4, 2, None),
        ("attention with a window", 2, 1, Some(3)),
    ] {
        let shape = shape(heads, kv_heads, window);
        let inputs =
            [random(10, heads * 6, 13), random(10, kv_heads * 6, 14), random(10, kv_heads * 6, 15)];
        check_gradients(what, &inputs, &|t| {
            attention(&t[0], &t[1], &t[2], &shape, &parts).unwrap()
        });
    }
}

/// Attention of one sequence as the formula says, in f64: dimension `i` turns
/// with dimension `i + d/2`, at `θ^(−2i/d)` a position.
fn plain_attention(q: &[f32], k: &[f32], v: &[f32], s: &AttentionShape, theta: f64) -> Vec<f32> {
    let d = s.head_dim;
    let (qw, kw) = (s.heads * d, s.kv_heads * d);
    let n = q.len() / qw;
    let turned = |x: &[f32], t: usize, i: usize| {
        let half = d / 2;
        let angle = t as f64 * theta.powf(-2.0 * (i % half) as f64 / d as f64);
        let (a, b) = (x[i % half] as f64, x[i % half + half] as f64);
        if i < half { a * angle.cos() - b * angle.sin() } else { b * angle.cos() + a * angle.sin() }
    };
    let mut out = Vec::new();
    for t in 0..n {
        for h in 0..s.heads {
            let g = h * s.kv_heads / s.heads;
            let first = s.window.map_or(0, |w| (t + 1).saturating_sub(w));
            let score = |u: usize| {
                let (q, k) = (&q[t * qw + h * d..][..d], &k[u * kw + g * d..][..d]);
                let dot: f64 = (0..d).map(|i| turned(q, t, i) * turned(k, u, i)).sum();
                (dot / (d as f64).sqrt()).exp()
            };
            let p: Vec<f64> = (first..=t).map(score).collect();
            let total: f64 = p.iter().sum();
            for i in 0..d {
                let at = |j: usize| v[(first + j) * kw + g * d + i] as f64;
                let y: f64 = p.iter().enumerate().map(|(j, p)| p / total * at(j)).sum();
                out.push(y as f32);
            }
        }
    }
    out
}

const CASES: [(usize, usize, Option<usize>); 4] =
    [(2, 2, None), (4, 2, None), (4, 1, Some(5)), (2, 2, Some(1))];

#[test]
fn attention_equals_the_formula() {
    let lens = [17, 1, 30];
    let n: usize = lens.iter().sum();
    for (heads, kv_heads, window) in CASES {
        let s = shape(heads, kv_heads, window);
        let (qw, kw) = (heads * 6, kv_heads * 6);
        let (q, k, v) = (random(n, qw, 16), random(n, kw, 17), random(n, kw, 18));
        let ours = values(&attention(&q, &k, &v, &s, &segments(&lens)).unwrap());
        let (q, k, v) = (values(&q), values(&k), values(&v));
        let mut plain = Vec::new();
        for part in segments(&lens).iter() {
            let cut = |x: &[f32], w: usize| x[part.start * w..(part.start + part.len) * w].to_vec();
            plain.extend(plain_attention(&cut(&q, qw), &cut(&k, kw), &cut(&v, kw), &s, 100.0));
        }
        let off = distance(&ours, &plain);
        assert!(off < 1e-5, "{heads} heads on {kv_heads}, window {window:?}: off by {off}");
    }
}

/// Two sequences grow side by side in two slots, by turns of one token and of
/// several; what they see must be what [`attention`] shows them at once.
#[test]
fn cached_attention_equals_attention() {
    let lens = [23, 14];
    let n: usize = lens.iter().sum();
    for (heads, kv_heads, window) in CASES {
        let s = shape(heads, kv_heads, window);
        let (qw, kw) = (heads * 6, kv_heads * 6);
        let (q, k, v) = (random(n, qw, 19), random(n, kw, 20), random(n, kw, 21));
        let whole = values(&attention(&q, &k, &v, &s, &segments(&lens)).unwrap());
        for chunks in [[1, 1], [4, 1], [5, 3], [23, 14]] {
            let mut memory = vec![Memory::default(); 2];
            let mut seen = [Vec::new(), Vec::new()];
            let mut at = [0, 0];
            while at != lens {
                let (mut rows, mut picked) = (Vec::new(), Vec::new());
                for slot in [1, 0] {
                    let len = chunks[slot].min(lens[slot] - at[slot]);
                    if len > 0 {
                        rows.push(Continuation { start: picked.len(), len, slot });
                        let base = if slot == 0 { 0 } else { lens[0] };
                        picked.extend((0..len).map(|i| (base + at[slot] + i) as u32));
                        at[slot] += len;
                    }
                }
                let picked = Tensor::new(picked.as_slice(), q.device()).unwrap();
                let take = |x: &Tensor| x.index_select(&picked, 0).unwrap();
                let y = cached_attention(&take(&q), &take(&k), &take(&v), &s, &rows, &mut memory);
                let y = values(&y.unwrap());
                for r in rows {
                    seen[r.slot].extend_from_slice(&y[r.start * qw..(r.start + r.len) * qw]);
                }
            }
            let off = distance(&seen.concat(), &whole);
            assert!(off < 1e-5, "{heads} heads, window {window:?}, {chunks:?}: off by {off}");
        }
    }
}

#[test]
fn attention_refuses_what_does_not_fit() {
    let s = shape(2, 2, None);
    let x = |n| random(n, 12, 22);
    let over = attention(&x(10), &x(10), &x(10), &s, &segments(&[7, 4]));
    assert!(over.unwrap_err().to_string().contains("10 rows"));
    let long = attention(&x(65), &x(65), &x(65), &s, &segments(&[65]));
    assert!(long.unwrap_err().to_string().contains("64 positions"));
    let mut memory = vec![Memory::default()];
    let row = [Continuation { start: 0, len: 65, slot: 0 }];
    let long = cached_attention(&x(65), &x(65), &x(65), &s, &row, &mut memory);
    assert!(long.unwrap_err().to_string().contains("64 positions"));
}

/// candle keeps a gradient for every argument that an op gives one to, variable
/// or not. What is frozen must get none.
#[test]
fn frozen_weights_leave_no_gradient() {
    let x = Var::from_tensor(&random(4, 8, 23)).unwrap();
    let (w, norm) = (random(6, 8, 24), random(1, 8, 25).flatten_all().unwrap());
    let h = rms_norm(&x, &norm, 1e-5, norm.is_variable()).unwrap();
    let y = linear(&h, &Weight::Dense(w.clone())).unwrap();
    let store = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(store.get(&x).is_some() && store.get(&w).is_none() && store.get(&norm).is_none());
    assert_eq!(store.get_ids().count(), 1);
}

#[test]
fn a_qlora_loss_has_gradients_for_the_adapters_alone() {
    for model_type in ["llama", "mistral", "mixtral"] {
        let config = common::tiny_config(model_type);
        let frozen = common::weights(&common::tiny_trainable(&config, 1));
        let mut model =
            cotalign::model::Transformer::from_tensors(&config, frozen.clone()).unwrap();
        model.quantise().unwrap();
        let lora = LoraConfig { r: 2, ..LoraConfig::default() };
        model.add_lora(&lora, 1).unwrap();
        let examples: Vec<Example> =
            (0..4).map(|i| Example { tokens: common::tokens(30, i), answer: 10 }).collect();
        let examples: Vec<&Example> = examples.iter().collect();
        let lp = token_log_probs(&model, &examples, Default::default()).unwrap();
        let store = sft(&lp, 80).unwrap().backward().unwrap();
        // Seven linear layers a block, in Mixtral 4 + 1 + 4 · 3, with A and B each.
        let layers = if model_type == "mixtral" { 17 } else { 7 };
        assert_eq!(model.variables().len(), 2 * 2 * layers);
        for (name, var) in model.variables() {
            assert!(store.get(var).is_some(), "{model_type}: {name} got no gradient");
        }
        for (name, t) in &frozen {
            assert!(store.get(t).is_none(), "{model_type}: {name} is frozen");
        }
        // Beside them only a few activations are left that nothing before them
        // consumes: the embedded tokens and their norm, and in each layer of
        // experts the zeros they are added to and the softmax's detached maximum.
        let left = if model_type == "mixtral" { 2 + 2 * 2 } else { 2 };
        assert_eq!(store.get_ids().count(), model.variables().len() + left, "{model_type}");
    }
}

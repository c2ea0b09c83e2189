//! Several samples of a prompt: which they are, and what they cost.

use std::cell::Cell;

use super::*;
use crate::model::Config;

thread_local! {
    static FED: Cell<usize> = const { Cell::new(0) };
}

/// Counts the tokens that the model is given.
pub fn fed(tokens: usize) {
    FED.set(FED.get() + tokens);
}

fn model() -> Transformer {
    let config = Config {
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        vocab_size: 40,
        max_position_embeddings: 64,
        ..Config::default()
    };
    Transformer::init(&config, 1).unwrap()
}

fn sampling(samples: usize, batch: usize) -> Sampling {
    Sampling { temperature: 1.0, max_new_tokens: 5, seed: 3, batch, stop: vec![], samples }
}

/// Prompts of 9, 12, 15 and 12 tokens; the first two begin alike.
fn prompts() -> (Vec<Vec<u32>>, Vec<String>) {
    let prompt = |i: usize| -> Vec<u32> {
        (0..[9, 12, 15, 12][i]).map(|t| ((t * 7 + i / 2 * 5) % 40) as u32).collect()
    };
    ((0..4).map(prompt).collect(), (0..4).map(|i| format!("p{i}")).collect())
}

/// Whatever the slots, and with ends at the first token among them.
#[test]
fn several_samples_are_those_of_several_calls() {
    let (model, (prompts, keys)) = (model(), prompts());
    let stops: Vec<u32> = (0..12).collect();
    for samples in [1, 2, 3, 7] {
        let mut alone = Vec::new();
        for (prompt, key) in prompts.iter().zip(&keys) {
            for sample in 0..samples {
                let (prompt, key) = ([prompt.clone()], [stream_key(key, sample)]);
                let one = sampling(1, 1);
                alone
                    .extend(generate(&model, &prompt, &key, &one, &stops[..], &mut || ()).unwrap());
            }
        }
        if samples == 7 {
            assert!(alone.iter().any(|g| g.tokens.is_empty()), "none ends at once");
            assert!(alone.iter().any(|g| !g.finished), "none is cut");
        }
        for batch in [1, 2, 3, 5, 100] {
            let (s, mut done) = (sampling(samples, batch), 0);
            let mut tick = || done += 1;
            let all = generate(&model, &prompts, &keys, &s, &stops[..], &mut tick).unwrap();
            assert!(all == alone, "{samples} samples in {batch} slots");
            assert_eq!(done, 4 * samples);
        }
    }
}

#[test]
fn a_prompt_is_computed_once_for_all_its_samples() {
    let (model, (prompts, keys)) = (model(), prompts());
    for batch in [1, 3, 100] {
        FED.set(0);
        let s = sampling(6, batch);
        generate(&model, &prompts, &keys, &s, &[][..], &mut || ()).unwrap();
        // 9 + 12 + 15 + 12 tokens of prompts, which share no beginning. Each of 24
        // samples has 5 tokens, the last of which is not fed.
        assert_eq!(FED.get(), 48 + 24 * 4, "{batch} slots");
        FED.set(0);
        generate(&model, &prompts[..2], &keys[..2], &s, &[][..], &mut || ()).unwrap();
        // The first prompt is the beginning of the second: 8 of its tokens are shared.
        assert_eq!(FED.get(), 8 + 1 + 4 + 12 * 4, "{batch} slots");
    }
}

/// A limit cuts what would have been said anyway, and takes nothing from the others.
#[test]
fn limits_of_their_own_cut_answers() {
    let (model, (prompts, keys)) = (model(), prompts());
    let s = sampling(2, 3);
    let all = generate(&model, &prompts, &keys, &s, &[][..], &mut || ()).unwrap();
    let limits = [1, 4, 9, 2];
    let cut = generate_limited(&model, &prompts, &keys, &limits, &s, &[][..], &mut || ());
    for (i, (whole, cut)) in all.iter().zip(&cut.unwrap()).enumerate() {
        assert_eq!(cut.tokens, whole.tokens[..limits[i / 2].min(5)], "sample {i}");
    }
    let error = generate_limited(&model, &prompts, &keys, &limits[..3], &s, &[][..], &mut || ());
    assert!(error.unwrap_err().to_string().contains("3 limits, 4 prompts"));
}

#[test]
fn samples_that_would_all_be_the_same_are_refused() {
    let (model, (prompts, keys)) = (model(), prompts());
    let s = Sampling { temperature: 0.0, ..sampling(2, 4) };
    let error = generate(&model, &prompts, &keys, &s, &[][..], &mut || ()).unwrap_err();
    assert!(error.to_string().contains("temperature 0"), "{error}");
}

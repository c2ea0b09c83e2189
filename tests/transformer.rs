//! Guards the transformer against the stock models of candle-transformers, and
//! what training and sampling rest on: that a sequence gives the same numbers
//! packed, cached and alone; and that models and adapters survive the disk.

mod common;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, mixtral};
use common::{
    VOCAB, distance, logits, message, tiny_config, tiny_frozen, tiny_model, tiny_tokenizer,
    tiny_trainable, tokens, values, weights,
};
use cotalign::model::ops::Continuation;
use cotalign::model::{
    Cache, Config, LoraConfig, Packed, Pass, Sampling, Targets, Transformer, generate,
    load_adapter, load_base, model_hash, save_adapter, save_base,
};
use cotalign::tune::loss::{Example, sequence_log_probs, token_log_probs};

/// Logits after each prefix of `ids`, as a stock model gives them: only those of
/// the last position of what it is fed.
fn of_prefixes(ids: &[u32], mut last: impl FnMut(&Tensor) -> Tensor) -> Vec<f32> {
    let prefix = |n: usize| Tensor::new(&ids[..n], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    (1..=ids.len()).flat_map(|n| values(&last(&prefix(n)))).collect()
}

fn builder(model: &Transformer) -> VarBuilder<'static> {
    let tensors: HashMap<String, Tensor> = weights(model).into_iter().collect();
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    let off = distance(ours, theirs);
    assert!(off < 1e-4, "{what}: off by {off}");
    assert!(common::largest(theirs) > 0.5, "{what}: logits too small to tell");
}

#[test]
fn logits_equal_the_stock_llama() {
    let ids = tokens(40, 1);
    for tied in [false, true] {
        for kv_heads in [1, 2, 4] {
            let config = Config {
                tie_word_embeddings: tied,
                num_key_value_heads: kv_heads,
                ..tiny_config("llama")
            };
            let model = tiny_trainable(&config, 2);
            let stock = llama::Config {
                hidden_size: config.hidden_size,
                intermediate_size: config.intermediate_size,
                vocab_size: config.vocab_size,
                num_hidden_layers: config.num_hidden_layers,
                num_attention_heads: config.num_attention_heads,
                num_key_value_heads: kv_heads,
                use_flash_attn: false,
                rms_norm_eps: config.rms_norm_eps,
                rope_theta: config.rope_theta as f32,
                bos_token_id: None,
                eos_token_id: None,
                rope_scaling: None,
                max_position_embeddings: config.max_position_embeddings,
                tie_word_embeddings: tied,
            };
            let reference = llama::Llama::load(builder(&model), &stock).unwrap();
            let theirs = of_prefixes(&ids, |prefix| {
                let mut cache = llama::Cache::new(false, DType::F32, &stock, &Device::Cpu).unwrap();
                reference.forward(prefix, 0, &mut cache).unwrap()
            });
            let ours = logits(&model, &[&ids]);
            assert_close(&format!("tied {tied}, {kv_heads} key heads"), &ours, &theirs);
        }
    }
}

/// The stock model's window counts the positions *before* the current one, the
/// hub's (and ours) the current one too.
#[test]
fn logits_equal_the_stock_mistral() {
    let ids = tokens(40, 3);
    for window in [None, Some(7)] {
        let config = Config { sliding_window: window, ..tiny_config("mistral") };
        let model = tiny_trainable(&config, 4);
        let stock = mistral::Config {
            vocab_size: config.vocab_size,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_hidden_layers: config.num_hidden_layers,
            num_attention_heads: config.num_attention_heads,
            head_dim: None,
            num_key_value_heads: config.num_key_value_heads,
            hidden_act: candle_nn::Activation::Silu,
            max_position_embeddings: config.max_position_embeddings,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config.rope_theta,
            sliding_window: window.map(|w| w - 1),
            use_flash_attn: false,
        };
        let mut reference = mistral::Model::new(&stock, builder(&model)).unwrap();
        let theirs = of_prefixes(&ids, |prefix| {
            reference.clear_kv_cache();
            reference.forward(prefix, 0).unwrap()
        });
        assert_close(&format!("window {window:?}"), &logits(&model, &[&ids]), &theirs);
    }
}

/// The stock configuration has no public fields, but it can be read from JSON.
#[test]
fn logits_equal_the_stock_mixtral() {
    let ids = tokens(40, 5);
    for used in [1, 2, 3] {
        let config = Config { num_experts_per_tok: used, ..tiny_config("mixtral") };
        let model = tiny_trainable(&config, 6);
        let mut stock = config.to_json();
        stock["sliding_window"] = 4096.into();
        stock["use_flash_attn"] = false.into();
        let stock: mixtral::Config = serde_json::from_value(stock).unwrap();
        let reference = mixtral::Model::new(&stock, builder(&model)).unwrap();
        let theirs = of_prefixes(&ids, |p| reference.clone().forward(p, 0).unwrap());
        assert_close(&format!("{used} experts used"), &logits(&model, &[&ids]), &theirs);
    }
}

/// The architectures whose parts differ, with a window shorter than the sequences.
fn configs() -> [Config; 3] {
    [
        tiny_config("llama"),
        Config { sliding_window: Some(6), ..tiny_config("mistral") },
        tiny_config("mixtral"),
    ]
}

#[test]
fn packed_sequences_equal_each_alone() {
    for config in configs() {
        let model = tiny_frozen(&config, 7);
        let sequences: Vec<Vec<u32>> =
            [19, 1, 40, 2].iter().zip(8..).map(|(n, seed)| tokens(*n, seed)).collect();
        let alone: Vec<f32> = sequences.iter().flat_map(|s| logits(&model, &[s])).collect();
        let off = distance(&logits(&model, &sequences), &alone) / common::largest(&alone);
        assert!(off < 1e-5, "{}: off by {off}", config.model_type);
    }
}

/// The prompt in one go, then token by token, beside another sequence that is
/// one step behind; and a copied slot goes on like the one it was copied from.
#[test]
fn cached_steps_equal_one_pass() {
    for config in configs() {
        let model = tiny_frozen(&config, 9);
        let (a, b) = (tokens(30, 10), tokens(30, 11));
        let row = |start, len, slot| Continuation { start, len, slot };
        let mut cache = Cache::new(&model, 3, 31).unwrap();
        let mut seen = [Vec::new(), Vec::new(), Vec::new()];
        let step = |t: &[u32], rows: &[Continuation], cache: &mut Cache| {
            let states = model.step(t, rows, cache).unwrap();
            let z = values(&model.logits(&states).unwrap());
            let cut = |r: &Continuation| z[r.start * VOCAB..(r.start + r.len) * VOCAB].to_vec();
            rows.iter().map(|r| (r.slot, cut(r))).collect::<Vec<_>>()
        };
        let mut rows = vec![step(&a[..12], &[row(0, 12, 0)], &mut cache)];
        rows.push(step(
            &[&a[12..13], &b[..12]].concat(),
            &[row(0, 1, 0), row(1, 12, 1)],
            &mut cache,
        ));
        for t in 13..30 {
            rows.push(step(&[b[t - 1], a[t]], &[row(0, 1, 1), row(1, 1, 0)], &mut cache));
        }
        cache.copy(1, 2).unwrap();
        let rest = [row(0, 1, 1), row(1, 1, 2)];
        rows.push(step(&[b[29], b[29]], &rest, &mut cache));
        for (slot, z) in rows.into_iter().flatten() {
            seen[slot].extend(z);
        }
        for (slot, ids) in [(0, &a), (1, &b)] {
            let whole = logits(&model, &[ids]);
            let off = distance(&seen[slot], &whole) / common::largest(&whole);
            assert!(off < 1e-5, "{}, slot {slot}: off by {off}", config.model_type);
        }
        assert_eq!(seen[2], seen[1][29 * VOCAB..]);
        cache.clear(2);
        let again = step(&a[..12], &[row(0, 12, 2)], &mut cache);
        assert_eq!(again[0].1, seen[0][..12 * VOCAB]);
    }
}

#[test]
fn an_answers_log_probability_does_not_depend_on_its_batch() {
    for config in configs() {
        let model = tiny_frozen(&config, 12);
        let examples: Vec<Example> = (0..6)
            .map(|i| Example { tokens: tokens(20 + 7 * i, i as u64), answer: 1 + 4 * i })
            .collect();
        let of = |some: &[&Example]| {
            let lp = token_log_probs(&model, some, Pass::default()).unwrap();
            values(&sequence_log_probs(&lp, some.len()).unwrap())
        };
        let all: Vec<&Example> = examples.iter().collect();
        let together = of(&all);
        let reversed: Vec<&Example> = examples.iter().rev().collect();
        let mut reversed = of(&reversed);
        reversed.reverse();
        for (i, e) in examples.iter().enumerate() {
            // By definition, from the logits of the sequence alone.
            let z = logits(&model, &[&e.tokens]);
            let plain: f64 = (e.answer..e.tokens.len())
                .map(|t| {
                    let row = &z[(t - 1) * VOCAB..t * VOCAB];
                    let total: f64 = row.iter().map(|z| (*z as f64).exp()).sum();
                    row[e.tokens[t] as usize] as f64 - total.ln()
                })
                .sum();
            for lp in [together[i], reversed[i], of(&[e])[0]] {
                let off = (lp as f64 - plain).abs() / plain.abs();
                assert!(off < 1e-5, "{}, example {i}: off by {off}", config.model_type);
            }
        }
    }
}

fn sampling(temperature: f64, batch: usize) -> Sampling {
    Sampling { temperature, max_new_tokens: 24, seed: 3, batch, stop: vec![], samples: 1 }
}

#[test]
fn a_generation_does_not_depend_on_its_neighbours() {
    let tokenizer = tiny_tokenizer();
    for config in configs() {
        let model = tiny_frozen(&config, 13);
        // Half of them share a long beginning, two of them all of it.
        let shared = tokens(15, 14);
        let prompts: Vec<Vec<u32>> = (0..7)
            .map(|i| match i {
                0 | 5 => shared.clone(),
                1 | 2 => [shared.clone(), tokens(i, 15)].concat(),
                _ => tokens(3 + 4 * i, 16 + i as u64),
            })
            .collect();
        let keys: Vec<String> = (0..7).map(|i| format!("prompt {i}")).collect();
        for temperature in [0.0, 0.7] {
            let run = |which: &[usize], batch| {
                let prompts: Vec<_> = which.iter().map(|i| prompts[*i].clone()).collect();
                let keys: Vec<_> = which.iter().map(|i| keys[*i].clone()).collect();
                let s = sampling(temperature, batch);
                let mut done = 0;
                let all =
                    generate(&model, &prompts, &keys, &s, tokenizer.stops.as_slice(), &mut || {
                        done += 1
                    });
                assert_eq!(done, which.len());
                all.unwrap()
            };
            let alone: Vec<_> = (0..7).map(|i| run(&[i], 1).remove(0)).collect();
            for batch in [1, 2, 3, 7, 100] {
                assert_eq!(run(&[0, 1, 2, 3, 4, 5, 6], batch), alone, "batch {batch}");
            }
            assert_eq!(run(&[0, 1, 5], 3), [0, 1, 5].map(|i| alone[i].clone()), "one beginning");
            assert_eq!(run(&[6, 4, 0], 2), [6, 4, 0].map(|i| alone[i].clone()));
            // The same prompt under another key is another draw, or the same argmax.
            assert_eq!(alone[0] == alone[5], temperature == 0.0);
        }
    }
}

/// Greedy tokens are the argmax of a fresh pass over everything so far, up to EOS
/// or to a limit.
#[test]
fn greedy_generation_is_the_argmax_of_each_prefix() {
    let model = tiny_model(17);
    let prompts: Vec<Vec<u32>> = (0..4).map(|i| tokens(5 + i, i as u64)).collect();
    let keys: Vec<String> = (0..4).map(|i| i.to_string()).collect();
    let argmax = |ids: &[u32]| {
        let z = logits(&model, &[ids]);
        let row = &z[z.len() - VOCAB..];
        (0..VOCAB).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32
    };
    // A token that greedy decoding meets on its way stands in for EOS.
    let mut path = prompts[2].clone();
    for _ in 0..5 {
        path.push(argmax(&path));
    }
    let eos = *path.last().unwrap();
    let all = generate(&model, &prompts, &keys, &sampling(0.0, 4), &[eos][..], &mut || ()).unwrap();
    for (prompt, g) in prompts.iter().zip(&all) {
        let mut ids = prompt.clone();
        while ids.len() < prompt.len() + 24 {
            let next = argmax(&ids);
            if next == eos {
                break;
            }
            ids.push(next);
        }
        assert_eq!(g.tokens, ids[prompt.len()..]);
        assert_eq!(g.finished, g.tokens.len() < 24);
    }
    assert!(all[2].finished && all[2].tokens.len() < 5);
}

/// Greedy text ends with the token that completes a stop text, wherever the tokens
/// are cut, and never before.
#[test]
fn a_stop_text_ends_an_answer() {
    let model = tiny_model(18);
    let tokenizer = common::tiny_tokenizer();
    let (prompts, keys) = ([tokens(9, 2)], ["one".to_string()]);
    let run = |stop: Vec<String>| {
        let s = Sampling { stop, ..sampling(0.0, 1) };
        let mut all = generate(&model, &prompts, &keys, &s, &tokenizer, &mut || ()).unwrap();
        all.remove(0)
    };
    let whole = run(Vec::new());
    let text = tokenizer.decode(&whole.tokens).unwrap();
    let chars: Vec<char> = text.chars().collect();
    assert!(chars.len() > 8, "{text:?}");
    let stop: String = chars[4..8].iter().collect();
    let cut = run(vec!["never to be seen".into(), stop.clone()]);
    assert!(cut.finished && whole.tokens.starts_with(&cut.tokens));
    let found = tokenizer.decode(&cut.tokens).unwrap();
    let before = tokenizer.decode(&cut.tokens[..cut.tokens.len() - 1]).unwrap();
    assert!(found.contains(&stop) && !before.contains(&stop), "{stop:?} in {found:?}");
}

#[test]
fn generation_stops_at_the_last_position_and_refuses_what_does_not_fit() {
    let model = tiny_model(18);
    let positions = model.config.max_position_embeddings;
    let run = |n: usize| {
        let s = Sampling { max_new_tokens: 50, ..sampling(0.7, 2) };
        generate(&model, &[tokens(n, 1)], &["long".into()], &s, &[][..], &mut || ())
    };
    let g = &run(positions - 10).unwrap()[0];
    assert_eq!((g.tokens.len(), g.finished), (10, false));
    assert!(message(run(positions)).contains(&format!("prompt long has {positions} tokens")));
    assert!(message(run(0)).contains("prompt long has 0 tokens"));
    let none = generate(&model, &[], &[], &sampling(0.0, 3), &[1][..], &mut || ()).unwrap();
    assert_eq!(none, []);
    let outside = model.hidden(&Packed::new(&[[1, VOCAB as u32]]), Pass::default());
    assert!(message(outside.map(|h| h.states)).contains("token 320 is outside the vocabulary"));
}

/// A model whose weights are f16 values already comes back bit for bit.
#[test]
fn a_saved_model_comes_back_to_f16_rounding() {
    for model_type in ["llama", "mistral", "mixtral"] {
        let dir = tempfile::tempdir().unwrap();
        let model = tiny_trainable(&tiny_config(model_type), 19);
        let ids = tokens(30, 20);
        let before = logits(&model, &[&ids]);
        for var in model.variables().values() {
            let rounded = var.as_tensor().to_dtype(DType::F16).unwrap().to_dtype(DType::F32);
            var.set(&rounded.unwrap()).unwrap();
        }
        let rounded = logits(&model, &[&ids]);
        save_base(&model, &tiny_tokenizer(), dir.path()).unwrap();
        let (loaded, tokenizer) = load_base(dir.path()).unwrap();
        assert_eq!(logits(&loaded, &[&ids]), rounded, "{model_type}");
        // Half precision has 11 bits; a handful of layers loses a few of them.
        assert!(distance(&before, &rounded) < 2e-2 * common::largest(&before));
        assert!(loaded.variables().is_empty(), "a loaded base is frozen");
        assert_eq!(loaded.parameters(), model.parameters());
        let text = "Question: 12 apples?\nAnswer: Let's think, ✓ so\n";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, tiny_tokenizer().encode(text).unwrap());
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let hash = model_hash(dir.path()).unwrap();
        let again = tempfile::tempdir().unwrap();
        save_base(&model, &tiny_tokenizer(), again.path()).unwrap();
        assert_eq!(model_hash(again.path()).unwrap(), hash, "the same bytes each time");
        assert!(message(save_base(&loaded, &tokenizer, again.path())).contains("in training"));
    }
}

/// Saves a tiny model, damages it, and gives the error of loading it.
fn damaged(damage: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    common::save_tiny(&tiny_config("llama"), 21, dir.path());
    load_base(dir.path()).unwrap();
    damage(dir.path());
    message(load_base(dir.path()))
}

fn damaged_weights(damage: impl FnOnce(&mut HashMap<String, Tensor>)) -> String {
    damaged(|dir| {
        let path = dir.join("model.safetensors");
        let mut all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        damage(&mut all);
        candle_core::safetensors::save(&all, path).unwrap();
    })
}

fn damaged_config(key: &str, value: serde_json::Value) -> String {
    damaged(|dir| {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        std::fs::write(path, config.to_string()).unwrap();
    })
}

fn assert_names(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_broken_model_folder_is_an_error_that_names_the_fault() {
    const UP: &str = "model.layers.1.mlp.up_proj.weight";
    let file = "model.safetensors";
    let found = damaged_weights(|all| drop(all.remove(UP)));
    assert_names(&found, &[file, UP, "missing"]);
    let found = damaged_weights(|all| {
        let extra = all[UP].clone();
        all.insert("model.layers.2.mlp.up_proj.weight".into(), extra);
    });
    assert_names(&found, &[file, "model.layers.2.mlp.up_proj.weight", "does not belong"]);
    let found = damaged_weights(|all| {
        let turned = all[UP].t().unwrap().contiguous().unwrap();
        all.insert(UP.into(), turned);
    });
    assert_names(&found, &[file, UP, "[32, 48]", "[48, 32]"]);
    for bad in [f32::NAN, f32::INFINITY] {
        let found = damaged_weights(|all| {
            let mut w = values(&all[UP].to_dtype(DType::F32).unwrap());
            w[100] = bad;
            all.insert(UP.into(), Tensor::from_vec(w, (48, 32), &Device::Cpu).unwrap());
        });
        assert_names(&found, &[file, UP, "not finite"]);
    }
    for name in ["config.json", "tokenizer.json", file] {
        let found = damaged(|dir| std::fs::remove_file(dir.join(name)).unwrap());
        assert_names(&found, &[name]);
        let found = damaged(|dir| std::fs::write(dir.join(name), "{").unwrap());
        assert_names(&found, &[name]);
    }
    assert_names(&damaged_config("model_type", "gpt2".into()), &["gpt2", "llama", "config.json"]);
    assert_names(&damaged_config("hidden_act", "gelu".into()), &["gelu", "silu"]);
    assert_names(&damaged_config("num_attention_heads", 3.into()), &["32", "3 heads"]);
    assert_names(&damaged_config("num_attention_heads", 0.into()), &["0 heads"]);
    assert_names(&damaged_config("num_key_value_heads", 3.into()), &["num_key_value_heads 3"]);
    assert_names(&damaged_config("num_local_experts", 4.into()), &["num_local_experts"]);
    assert_names(&damaged_config("hidden_size", "wide".into()), &["config.json", "wide"]);
    assert_names(&damaged_config("eos_token_id", 999.into()), &["eos_token_id 999", "320"]);
    assert_names(&damaged_config("num_hidden_layers", 3.into()), &["model.layers.2.", "missing"]);
}

/// A base in NF4, and the same with an adapter that changes something.
fn adapted(config: &Config, lora: &LoraConfig) -> (Transformer, Transformer) {
    let mut base = tiny_frozen(config, 22);
    base.quantise().unwrap();
    let mut model = base.clone();
    model.add_lora(lora, 23).unwrap();
    common::stir_adapter(&model, 24);
    (base, model)
}

#[test]
fn adapters_come_back_and_fold_in() {
    let ids = tokens(40, 25);
    for config in configs() {
        let what = &config.model_type;
        let lora = LoraConfig { r: 3, lora_alpha: 9.0, ..LoraConfig::default() };
        let (base, model) = adapted(&config, &lora);
        let ours = logits(&model, &[&ids]);
        let untouched = logits(&base, &[&ids]);
        assert!(distance(&ours, &untouched) > 0.1, "{what}: the adapter does nothing");
        let dir = tempfile::tempdir().unwrap();
        save_adapter(&model, &lora, "base", dir.path()).unwrap();
        let mut loaded = base.clone();
        load_adapter(&mut loaded, &lora, dir.path()).unwrap();
        assert_eq!(logits(&loaded, &[&ids]), ours, "{what}");
        let merged = model.merged().unwrap();
        assert!(merged.variables().is_empty());
        let off = distance(&logits(&merged, &[&ids]), &ours);
        assert!(off < 1e-4, "{what}: merged is off by {off}");
        // A fresh adapter changes nothing.
        let mut fresh = base.clone();
        fresh.add_lora(&lora, 1).unwrap();
        assert_eq!(logits(&fresh, &[&ids]), untouched, "{what}");
    }
}

#[test]
fn a_foreign_adapter_is_an_error_that_names_the_fault() {
    let lora = LoraConfig { r: 3, ..LoraConfig::default() };
    let (base, model) = adapted(&tiny_config("llama"), &lora);
    let dir = tempfile::tempdir().unwrap();
    save_adapter(&model, &lora, "base", dir.path()).unwrap();
    let wide = LoraConfig { r: 4, ..lora.clone() };
    let found = message(load_adapter(&mut base.clone(), &wide, dir.path()));
    assert_names(&found, &["adapter_model.safetensors", "lora_A", "[3, 48]", "[4, 48]"]);
    let path = dir.path().join("adapter_model.safetensors");
    let all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let name = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight";
    let mut less = all.clone();
    let one = less.remove(name).unwrap();
    candle_core::safetensors::save(&less, &path).unwrap();
    let found = message(load_adapter(&mut base.clone(), &lora, dir.path()));
    assert_names(&found, &["adapter_model.safetensors", name, "missing"]);
    let mut more = all;
    more.insert("base_model.model.other.lora_B.weight".into(), one);
    candle_core::safetensors::save(&more, &path).unwrap();
    let found = message(load_adapter(&mut base.clone(), &lora, dir.path()));
    assert_names(&found, &["adapter_model.safetensors", "base_model.model.other.lora_B.weight"]);
    std::fs::remove_file(&path).unwrap();
    let found = message(load_adapter(&mut base.clone(), &lora, dir.path()));
    assert_names(&found, &["adapter_model.safetensors"]);
    let only = LoraConfig { target_modules: Targets::Names(vec!["query".into()]), ..lora };
    assert_names(&message(base.clone().add_lora(&only, 1)), &["query", "names no layer"]);
}

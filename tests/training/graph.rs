//! What a pass keeps for the backward one, and what it gives without.

use super::*;

/// Llama with adapters, and a mixture of experts whose every weight is trained.
#[test]
fn recomputed_blocks_give_the_same_gradients_bit_for_bit() {
    let kinds: [&dyn Fn() -> Transformer; 3] =
        [&|| student("llama", 3), &|| student("mixtral", 3), &|| {
            tiny_trainable(&config("mixtral"), 3)
        }];
    for new_model in kinds {
        let dropout = Some(Dropout { p: 0.1, key: 9 });
        let once = |on: bool| {
            let mut model = new_model();
            model.set_gradient_checkpointing(on);
            let mut objective = Instruct::new(some_examples(8), 4, 2, 7).unwrap();
            gradients(&model, &mut objective, Pass { dropout, ..Pass::default() })
        };
        let (kept, again) = (once(false), once(true));
        assert_eq!(kept.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
        for (name, g) in &kept {
            assert_eq!(*g, again[name], "{name}");
        }
    }
}

/// What nothing is learnt from keeps no graph, and so no activations.
#[test]
fn a_frozen_model_gives_the_same_values_without_a_graph() {
    let examples = some_examples(4);
    let examples: Vec<&Example> = examples.iter().collect();
    for mut model in [student("llama", 3), tiny_trainable(&config("mixtral"), 3)] {
        for on in [false, true] {
            model.set_gradient_checkpointing(on);
            let of = |m: &Transformer| token_log_probs(m, &examples, Pass::default()).unwrap();
            let (trained, frozen) = (of(&model).values, of(&model.frozen()).values);
            assert!(trained.track_op() && !frozen.track_op());
            assert_eq!(values(&trained), values(&frozen));
        }
    }
}

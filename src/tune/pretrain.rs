//! Pretraining of the pocket models on text of the pocket world.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::loss::{Example, sft, token_log_probs};
use super::optimizer::OptimizerPlan;
use super::trainer::{Later, LogLine, Metrics, Objective, TrainerPlan, train};
use crate::model::{Config, Pass, Tokenizer, Transformer};
use crate::task::{Corpus, Family, Mixture, World};

/// One pocket base model, as `data/pocket/models.toml` describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainPlan {
    pub name: String,
    pub family: Family,
    /// `llama`, `mistral` or `mixtral`: the `model_type` of `config.json`.
    pub architecture: String,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    #[serde(default)]
    pub experts: Option<usize>,
    pub mixture: Mixture,
    pub vocab_size: usize,
    /// Tokens seen in all.
    pub tokens: usize,
    pub tokens_per_step: usize,
    pub learning_rate: f64,
    pub seed: u64,
}

impl PretrainPlan {
    pub fn config(&self, tokenizer: &Tokenizer) -> Config {
        Config {
            model_type: self.architecture.clone(),
            vocab_size: tokenizer.vocab_size(),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.heads,
            tie_word_embeddings: true,
            num_local_experts: self.experts,
            bos_token_id: tokenizer.bos,
            eos_token_id: vec![tokenizer.eos],
            ..Config::default()
        }
    }

    pub fn steps(&self) -> usize {
        self.tokens / self.tokens_per_step
    }
}

/// Documents of the tokenizer's training text.
const TOKENIZER_DOCUMENTS: usize = 20_000;

/// The tokenizer of a family: BPE on the family's own text. All models of a
/// family share it, so it depends on the family and the mixture's kinds only.
pub fn train_tokenizer(
    world: &World,
    family: Family,
    mixture: &Mixture,
    vocab: usize,
) -> Result<Tokenizer> {
    let mut corpus = Corpus::new(world, family, mixture, 0)?;
    let texts: Vec<String> =
        (0..TOKENIZER_DOCUMENTS).map(|_| corpus.next_document().whole()).collect();
    Tokenizer::train(texts.into_iter(), vocab)
}

struct Stream<'w> {
    corpus: Corpus<'w>,
    tokenizer: Tokenizer,
    tokens_per_step: usize,
}

impl Objective for Stream<'_> {
    type Batch = Vec<Example>;

    fn next_step(&mut self) -> Result<Vec<Vec<Example>>> {
        let (mut batch, mut total) = (Vec::new(), 0);
        while total < self.tokens_per_step {
            let document = self.corpus.next_document();
            let mut tokens = self.tokenizer.prompt(&document.context)?;
            let answer = tokens.len();
            tokens.extend(self.tokenizer.answer(&document.text)?);
            total += tokens.len();
            batch.push(Example { tokens, answer });
        }
        Ok(vec![batch])
    }

    fn loss(
        &self,
        model: &Transformer,
        batch: &Vec<Example>,
        pass: Pass,
    ) -> Result<(Tensor, Later)> {
        let examples: Vec<&Example> = batch.iter().collect();
        let lp = token_log_probs(model, &examples, pass)?;
        let mut loss = sft(&lp, lp.example.len())?;
        if let Some(balance) = &lp.balance {
            // Mixtral's router_aux_loss_coef is 0.02 in its released config.
            loss = (loss + (balance * 0.02)?)?;
        }
        Ok((loss, Box::new(|| Ok(Metrics::new()))))
    }
}

/// Trains one base model and leaves its variables in the returned model.
pub fn pretrain(
    plan: &PretrainPlan,
    world: &World,
    tokenizer: &Tokenizer,
    dir: &Path,
    each_step: &mut dyn FnMut(usize, &LogLine) -> Result<()>,
) -> Result<(Transformer, Vec<LogLine>)> {
    ensure!(plan.steps() > 0, "{}: tokens must be at least tokens_per_step", plan.name);
    let model = Transformer::init(&plan.config(tokenizer), plan.seed)?;
    let mut stream = Stream {
        corpus: Corpus::new(world, plan.family, &plan.mixture, plan.seed)?,
        tokenizer: tokenizer.clone(),
        tokens_per_step: plan.tokens_per_step,
    };
    let trainer = TrainerPlan {
        optimizer: OptimizerPlan {
            weight_decay: 0.1,
            adam_beta2: 0.98,
            warmup_steps: plan.steps() / 30,
            ..OptimizerPlan::new(plan.learning_rate, plan.steps())
        },
        dropout: 0.0,
        seed: plan.seed,
        logging_steps: 50,
        save_steps: 250,
    };
    let log = train(&model, &mut stream, &trainer, dir, each_step)?;
    Ok((model, log))
}

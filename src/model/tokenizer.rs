//! Text to token ids and back, through the hub's `tokenizer.json`.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, TokenizerBuilder};

/// Begin and end of a sequence, as Llama names them.
pub const BOS: &str = "<s>";
pub const EOS: &str = "</s>";

/// A tokenizer with its two special ids. It never adds special tokens by
/// itself: [`Tokenizer::prompt`] puts the one BOS, [`Tokenizer::answer`] the EOS.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pub bos: u32,
    pub eos: u32,
}

impl Tokenizer {
    pub fn load(path: &Path, bos: u32, eos: u32) -> Result<Tokenizer> {
        let inner = tokenizers::Tokenizer::from_file(path)
            .map_err(|e| anyhow!("{}: not a tokenizer.json: {e}", path.display()))?;
        let size = inner.get_vocab_size(true) as u32;
        for (name, id) in [("bos_token_id", bos), ("eos_token_id", eos)] {
            if id >= size {
                return Err(anyhow!(
                    "{}: {name} {id} of config.json is outside the {size} tokens",
                    path.display()
                ));
            }
        }
        Ok(Tokenizer { inner, bos, eos })
    }

    /// Trains byte-level BPE on `texts`, each digit a token of its own.
    pub fn train(texts: impl Iterator<Item = String> + Send, vocab: usize) -> Result<Tokenizer> {
        let wrong = |e: tokenizers::Error| anyhow!("training the tokenizer: {e}");
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(vocab)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(BOS, true), AddedToken::from(EOS, true)])
            .build();
        let mut inner = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(None::<tokenizers::NormalizerWrapper>)
            .with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
                PreTokenizerWrapper::Digits(Digits::new(true)),
                PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
            ]))))
            .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
            .with_decoder(Some(ByteLevelDecoder::default()))
            .build()
            .map_err(wrong)?;
        inner.train(&mut trainer, texts).map_err(wrong)?;
        let json = inner.to_string(false).map_err(wrong)?;
        let inner: tokenizers::Tokenizer = json.parse().map_err(wrong)?;
        let id = |t| inner.token_to_id(t).context("a special token got no id");
        Ok(Tokenizer { bos: id(BOS)?, eos: id(EOS)?, inner })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        self.inner.save(path, true).map_err(|e| anyhow!("{}: {e}", path.display()))
    }

    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Ids of `text`, nothing added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|e| anyhow!("tokenizing: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// BOS, then the ids of a prompt.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = vec![self.bos];
        ids.extend(self.encode(text)?);
        Ok(ids)
    }

    /// The ids of an answer that follows a prompt, then EOS.
    pub fn answer(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text)?;
        ids.push(self.eos);
        Ok(ids)
    }

    /// Text of `ids` without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| anyhow!("decoding: {e}"))
    }
}

//! The added tokens of a `tokenizer.json`.
//!
//! The library does not take their ids from the file: a token whose text is in the model's vocabulary
//! has the id that it has there, the others are numbered on from the vocabulary's size, in the order
//! of the file. A file whose ids say something else is refused, because one of the two is wrong.

use serde::Deserialize;

use super::Refusal;
use super::model::Model;
use crate::vocab::SpecialToken;
use crate::vocab::pipeline::TokenFlags;

#[expect(clippy::struct_excessive_bools, reason = "the format's own five switches")]
#[derive(Deserialize)]
pub(super) struct Token {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

pub(super) fn read(
    tokens: Vec<Token>,
    model: &Model,
) -> Result<(Vec<SpecialToken>, Vec<TokenFlags>), Refusal> {
    let (mut specials, mut all_flags) = (Vec::<SpecialToken>::new(), Vec::new());
    let mut next = model.vocab.len() as u32;
    for token in tokens {
        let Token { id, content, single_word, lstrip, rstrip, normalized, special } = token;
        if content.is_empty() {
            return Err(format!("added token {id} is empty"));
        }
        let expected = model.vocab.get(&content).copied().unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        if id != expected {
            return Err(format!(
                "added token {content:?} has id {id}, but the library would give it {expected}"
            ));
        }
        specials.push(SpecialToken { text: content, id });
        all_flags.push(TokenFlags { special, single_word, lstrip, rstrip, normalized });
    }
    Ok((specials, all_flags))
}

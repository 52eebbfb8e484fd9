"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): a word for a thing, of whose embeddings alone a model learns.

The word stands in the captions. It gets tokens of its own in place of the pieces that the tokenizer cuts it into, and
their embeddings begin as the mean of those pieces' (or of another word's). Stock `load_textual_inversion` puts what is
saved onto the pipeline that the word was learned with; SDXL's file holds one table for each text encoder.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AddedToken, CLIPTokenizer

from prunella.errors import UserError
from prunella.latents.encoders import TOKENS
from prunella.params import TextualInversion
from prunella.training.text_encoders import UNetWithTextEncoders

FILE = "learned_embeds.safetensors"
TABLES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}  # of SDXL's file, as diffusers' own script names them


class ExtendedEmbedding(nn.Module):
    """A table of embeddings, frozen, with rows after its end that learn."""

    def __init__(self, known: nn.Embedding, rows: Tensor):
        super().__init__()
        self.known, self.rows = known, nn.Parameter(rows)

    @property
    def table(self) -> Tensor:
        return torch.cat([self.known.weight, self.rows])

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.embedding(tokens, self.table)


class PlaceholderToken:
    """The word, in a model whose other weights are frozen. Raises UserError where a tokenizer has it already."""

    def __init__(self, params: TextualInversion, text_encoder_model: UNetWithTextEncoders, student: Path):
        assert params.placeholder_token is not None  # which its section sees to
        self.names = [
            params.placeholder_token,
            *(f"{params.placeholder_token}_{number}" for number in range(1, params.num_vectors)),
        ]
        self.initial_tokens, self.tokens, self.tokenizers = {}, {}, {}
        text_encoder_model.requires_grad_(False)
        encoders: dict[str, Any] = dict(text_encoder_model.encoders.items())
        for name, encoder in encoders.items():
            part = _find_tokenizer(name)
            tokenizer, vocabulary_size = CLIPTokenizer.from_pretrained(student / part), encoder.get_input_embeddings()
            if len(tokenizer) != len(vocabulary_size.weight):
                raise UserError(
                    f"{student / part}: {len(tokenizer)} tokens, and {name} has {len(vocabulary_size.weight)}"
                )
            if params.placeholder_token in tokenizer.get_vocab():
                raise UserError(
                    f"finetune.inversion.placeholder_token: {params.placeholder_token!r} is a token of "
                    f"{student / part} already"
                )
            initializer, self.initial_tokens[name] = (
                _tokenize_initializer(tokenizer, word) for word in (params.initializer_token, params.placeholder_token)
            )
            # As whole words only: a plain token would be found inside others too, `sks` in `masks`.
            tokenizer.add_tokens([AddedToken(each, single_word=True) for each in self.names])
            self.tokens[name], self.tokenizers[part] = tokenizer.convert_tokens_to_ids(self.names), tokenizer
            rows = (
                vocabulary_size.weight[initializer or self.initial_tokens[name]]
                .mean(0, keepdim=True)
                .repeat(params.num_vectors, 1)
            )
            _pool_at_end_token(encoder, tokenizer.eos_token_id)
            encoder.set_input_embeddings(ExtendedEmbedding(vocabulary_size, rows.clone()))

    def replace_tokens(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tokens (NL) by name, with the word's in place of its pieces."""
        encoders = {kind: name for name, kind in TOKENS.items()}
        return {
            kind: torch.stack([self._replace_row(row, encoders[kind]) for row in rows]) for kind, rows in stored.items()
        }

    def _replace_row(self, row: Tensor, name: str) -> Tensor:
        tokenizer, left, pieces = self.tokenizers[_find_tokenizer(name)], row.tolist(), self.initial_tokens[name]
        row_tokens: list[int] = []
        previous: int | None = None
        while left:
            matches = left[: len(pieces)] == pieces and (previous is None or _ends_word(tokenizer, previous))
            previous = left[len(pieces) - 1 if matches else 0]
            row_tokens += self.tokens[name] if matches else left[:1]
            left = left[len(pieces) if matches else 1 :]
        row_tokens = row_tokens[: len(row)] + [tokenizer.pad_token_id] * (len(row) - len(row_tokens))
        if tokenizer.eos_token_id not in row_tokens:  # the word has more tokens than pieces, and the caption was cut
            row_tokens[-1] = tokenizer.eos_token_id
        return torch.tensor(row_tokens, dtype=row.dtype)

    def merge_components(self, parts: dict[str, Any]) -> dict[str, Any]:
        """The `parts` (UNet, text encoders), the encoders as copies with the word among all, and their tokenizers."""
        merged = parts | {name: copy.deepcopy(parts[name]) for name in self.tokens}
        for name in self.tokens:
            table = merged[name].get_input_embeddings().table.detach()
            merged[name].set_input_embeddings(nn.Embedding.from_pretrained(table))
            merged[name].config.vocab_size = merged[name].config.get_text_config().vocab_size = len(table)
        return merged | self.tokenizers

    def save(self, encoders: dict[str, Any], folder: Path) -> None:
        """Write the embeddings alone as FILE in `folder`."""
        rows = {name: part.get_input_embeddings().rows.detach().cpu().contiguous() for name, part in encoders.items()}
        one = len(rows) == 1
        save_file({self.names[0] if one else TABLES[name]: each for name, each in rows.items()}, folder / FILE)


def _pool_at_end_token(encoder: Any, end_token_id: int) -> None:
    """Have a CLIP text encoder pool at the end token.

    With `eos_token_id: 2` in its config, as SDXL's second encoder has it, transformers pools at the largest token
    number, which is the end token's until there are tokens behind it.
    """
    encoder.config.eos_token_id = encoder.config.get_text_config().eos_token_id = end_token_id
    for module in encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = end_token_id


def _ends_word(tokenizer: Any, token: int) -> bool:
    """Whether a word may begin behind a token: behind a special token and behind the last piece of a word."""
    return token in tokenizer.all_special_ids or str(tokenizer.convert_ids_to_tokens(token)).endswith("</w>")


def _find_tokenizer(encoder: str) -> str:
    """The name of a text encoder's tokenizer in a pipeline."""
    return encoder.replace("text_encoder", "tokenizer")


def _tokenize_initializer(tokenizer: Any, word: str | None) -> list[int]:
    return tokenizer(word, add_special_tokens=False).input_ids if word else []

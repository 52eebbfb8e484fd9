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
from transformers import CLIPTokenizer

from prunella.errors import UserError
from prunella.latents.encoders import TOKENS
from prunella.params import TextualInversion
from prunella.training.text_encoders import Speaking

FILE = "learned_embeds.safetensors"
TABLES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}  # of SDXL's file, as diffusers' own script names them


class Extended(nn.Module):
    """A table of embeddings, frozen, with rows after its end that learn."""

    def __init__(self, known: nn.Embedding, rows: Tensor):
        super().__init__()
        self.known, self.rows = known, nn.Parameter(rows)

    @property
    def table(self) -> Tensor:
        return torch.cat([self.known.weight, self.rows])

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.embedding(tokens, self.table)


class Word:
    """The word, in a model whose other weights are frozen. Raises UserError where a tokenizer has it already."""

    def __init__(self, params: TextualInversion, speaks: Speaking, student: Path):
        assert params.placeholder_token is not None  # which its section sees to
        self.names = [
            params.placeholder_token,
            *(f"{params.placeholder_token}_{number}" for number in range(1, params.num_vectors)),
        ]
        self.pieces, self.tokens, self.tokenizers = {}, {}, {}
        speaks.requires_grad_(False)
        encoders: dict[str, Any] = dict(speaks.encoders.items())
        for name, encoder in encoders.items():
            part = _tokenizer(name)
            tokenizer, known = CLIPTokenizer.from_pretrained(student / part), encoder.get_input_embeddings()
            if len(tokenizer) != len(known.weight):
                raise UserError(f"{student / part}: {len(tokenizer)} tokens, and {name} has {len(known.weight)}")
            if params.placeholder_token in tokenizer.get_vocab():
                raise UserError(
                    f"finetune.inversion.placeholder_token: {params.placeholder_token!r} is a token of "
                    f"{student / part} already"
                )
            begin, self.pieces[name] = (
                _pieces(tokenizer, word) for word in (params.initializer_token, params.placeholder_token)
            )
            tokenizer.add_tokens(self.names)
            self.tokens[name], self.tokenizers[part] = tokenizer.convert_tokens_to_ids(self.names), tokenizer
            rows = known.weight[begin or self.pieces[name]].mean(0, keepdim=True).repeat(params.num_vectors, 1)
            encoder.set_input_embeddings(Extended(known, rows.clone()))

    def told(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tokens (NL) by name, with the word's in place of its pieces."""
        encoders = {kind: name for name, kind in TOKENS.items()}
        return {kind: torch.stack([self._told(row, encoders[kind]) for row in rows]) for kind, rows in stored.items()}

    def _told(self, row: Tensor, name: str) -> Tensor:
        tokenizer, left, pieces = self.tokenizers[_tokenizer(name)], row.tolist(), self.pieces[name]
        made: list[int] = []
        while left:
            found = left[: len(pieces)] == pieces
            made += self.tokens[name] if found else left[:1]
            left = left[len(pieces) if found else 1 :]
        made = made[: len(row)] + [tokenizer.pad_token_id] * (len(row) - len(made))
        if tokenizer.eos_token_id not in made:  # the word has more tokens than pieces, and the caption was cut
            made[-1] = tokenizer.eos_token_id
        return torch.tensor(made, dtype=row.dtype)

    def whole(self, parts: dict[str, Any]) -> dict[str, Any]:
        """The `parts` (UNet, text encoders), the encoders as copies with the word among all, and their tokenizers."""
        made = parts | {name: copy.deepcopy(parts[name]) for name in self.tokens}
        for name in self.tokens:
            table = made[name].get_input_embeddings().table.detach()
            made[name].set_input_embeddings(nn.Embedding.from_pretrained(table))
            made[name].config.vocab_size = made[name].config.get_text_config().vocab_size = len(table)
        return made | self.tokenizers

    def save(self, encoders: dict[str, Any], folder: Path) -> None:
        """Write the embeddings alone as FILE in `folder`."""
        rows = {name: part.get_input_embeddings().rows.detach().cpu().contiguous() for name, part in encoders.items()}
        one = len(rows) == 1
        save_file({self.names[0] if one else TABLES[name]: each for name, each in rows.items()}, folder / FILE)


def _tokenizer(encoder: str) -> str:
    """The name of a text encoder's tokenizer in a pipeline."""
    return encoder.replace("text_encoder", "tokenizer")


def _pieces(tokenizer: Any, word: str | None) -> list[int]:
    return tokenizer(word, add_special_tokens=False).input_ids if word else []

"""The miniature's CLIPTokenizer: every byte is in its alphabet, so it reads any caption; scene words are one token."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from prunella.scenes.generator import Vocabulary

START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(vocabulary: Vocabulary, max_length: int) -> CLIPTokenizer:
    """A tokenizer whose merges are learnt from the vocabulary's words; `length` tokens at most."""
    words = set(" ".join([*vocabulary.shapes, *vocabulary.colours, *vocabulary.backgrounds, *vocabulary.sizes]).split())
    words |= set(" ".join([*vocabulary.relations, *vocabulary.phrasings]).replace("{", " ").replace("}", " ").split())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(
        sorted(words), trainers.BpeTrainer(end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    entries = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in merges)]
    entries = [*dict.fromkeys(entries), START_TOKEN, END_TOKEN]
    return CLIPTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)}, merges=merges, model_max_length=max_length
    )

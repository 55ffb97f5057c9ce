"""Small tokenizers of each kind that the families have, as transformers' own classes, with their chat templates."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from whet.export.pretokenizers import PRE_TOKENIZERS

TEXTS = [
    "How many orders were shipped in March 2024, and what did they cost in all?",
    "SELECT count(*), name FROM orders WHERE total >= 1000 GROUP BY name ORDER BY name;\n\n\tReturn one SQL query.",
    "def add(a, b):\n    return a + b  # what's wrong here, if anything?",
    "Nothing: it's correct. The names of those who earn less than 1,000,000, from A to Z, twelve rows. Was heißt das?",
]
TURNS = (
    "{{% for m in messages %}}{{{{ '{before}' + m['role'] + '{between}' + m['content'] + '{after}' }}}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '{before}assistant{between}' }}}}{{% endif %}}"
)
CHATML = TURNS.format(before="<|im_start|>", between=r"\n", after=r"<|im_end|>\n")
LLAMA_3 = "{{ bos_token }}" + TURNS.format(
    before="<|start_header_id|>", between=r"<|end_header_id|>\n\n", after="<|eot_id|>"
)
PHI_3 = TURNS.format(before="<|", between=r"|>\n", after=r"<|end|>\n")
GEMMA = "{{ bos_token }}" + TURNS.format(before="<start_of_turn>", between=r"\n", after=r"<end_of_turn>\n")
TINYLLAMA = TURNS.format(before="<|", between=r"|>\n", after=r"</s>\n")
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)


def byte_level(name: str, specials: list[str], template: str, eos: str, bos: str | None = None) -> Any:
    """Byte-level BPE with the splitting rule that llama.cpp calls ``name``."""
    steps, whole_words = next(rule for rule, known in PRE_TOKENIZERS.items() if known == name)
    core = Tokenizer(models.BPE(ignore_merges=whole_words))
    core.pre_tokenizer, core.decoder = splitting(steps), decoders.ByteLevel()
    core.train_from_iterator(TEXTS * 3, _trainer(specials, pre_tokenizers.ByteLevel.alphabet()))
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, specials.index(bos))]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, bos_token=bos, chat_template=template)
    if name == "qwen2":
        vocabulary, merges = _vocabulary_and_merges(core)
        made = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token=eos, chat_template=template)
    return made


def splitting(steps: tuple[str, ...]) -> Any:
    """The pre-tokenizer of a rule in ``PRE_TOKENIZERS``."""
    from whet.export.pretokenizers import DIGIT, GPT2

    if steps == (GPT2,):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if steps == (DIGIT, GPT2):
        digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        return pre_tokenizers.Sequence([digits, level])
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(steps[0]), behavior="isolated"), level])


def _trainer(specials: list[str], alphabet: list[str]) -> Any:
    return trainers.BpeTrainer(
        vocab_size=len(specials) + 420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )


def _vocabulary_and_merges(core: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    import json

    model = json.loads(core.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def sentence_pieces(before: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary as SentencePiece makes one, with every way to join each token.

    Args:
        before: special tokens; the byte tokens follow them.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    core.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    learned, _ = _vocabulary_and_merges(core)
    order = [*before, *(f"<0x{number:02X}>" for number in range(256)), *sorted(learned, key=learned.__getitem__)]
    vocabulary = {token: number for number, token in enumerate(order)}
    merges = []
    for token in sorted((token for token in learned if len(token) > 1), key=learned.__getitem__):
        cuts = [(token[:place], token[place:]) for place in range(1, len(token))]
        merges += [(left, right) for left, right in cuts if left in learned and right in learned]
    return vocabulary, merges


def llama_2(template: str = INSTRUCT) -> Any:
    """A space before the very start of a text only (``legacy: false``)."""
    vocabulary, merges = sentence_pieces(["<unk>", "<s>", "</s>"])
    return LlamaTokenizer(vocab=vocabulary, merges=merges, chat_template=template)


def tinyllama() -> Any:
    return llama_2(TINYLLAMA)


def gemma() -> Any:
    """No space before a text; white space and turn marks as added tokens."""
    vocabulary, merges = sentence_pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    made = GemmaTokenizer(vocab=vocabulary, merges=merges, chat_template=GEMMA)
    made.add_tokens([AddedToken("<start_of_turn>", special=True), AddedToken("<end_of_turn>", special=True)])
    made.add_tokens([AddedToken("\n\n", normalized=False)])
    return made


def _always(template: str, extra: list[AddedToken]) -> Any:
    """A space before each piece between special tokens."""
    vocabulary, merges = sentence_pieces(["<unk>", "<s>", "</s>"])
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(["<unk>", "<s>"])
    core.add_tokens(extra)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )


def mistral() -> Any:
    return _always(INSTRUCT, [AddedToken("</s>", special=True, normalized=False)])


def phi_3() -> Any:
    """Special tokens swallow the white space after them, all but three."""
    marks = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    swallowing = [AddedToken(mark, special=True, normalized=False, rstrip=True) for mark in marks]
    end = AddedToken("<|endoftext|>", special=True, normalized=False)
    return _always(PHI_3, [AddedToken("</s>", normalized=False, rstrip=True), end, *swallowing])


def llama_3() -> Any:
    specials = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    return byte_level("llama-bpe", specials, LLAMA_3, "<|eot_id|>", "<|begin_of_text|>")


def qwen() -> Any:
    return byte_level("qwen2", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML, "<|im_end|>")


def smollm() -> Any:
    return byte_level("smollm", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], CHATML, "<|im_end|>")


def phi_4() -> Any:
    specials = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return byte_level("gpt-4o", specials, PHI_3, "<|end|>")

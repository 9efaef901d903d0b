"""A checkpoint's tokenizer as its files together describe it.

tokenizer.json holds the vocabulary; tokenizer_config.json, special_tokens_map.json and
added_tokens.json may add tokens, change their flags and name the special ones. Every service
loads the same tokenizer through here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

_STANDARD_NAMES = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
# Classes that, until transformers 4, wrote bos and eos as tokenizer_config.json says, whatever
# tokenizer.json's post-processor does.
_BOS_BY_CONFIG = frozenset({"Llama", "CodeLlama", "Gemma", "Cohere", "GPTNeoX"})


class VocabularyError(Exception):
    """A checkpoint has no usable tokenizer; the message names the thing and the remedy."""


@dataclass(frozen=True)
class TokenizerConfig:
    """The settings of a tokenizer beside tokenizer.json.

    Attributes:
        settings: tokenizer_config.json, overridden by special_tokens_map.json where that counts.
        special_tokens: texts of the named special tokens, such as bos_token.
        extra_special_tokens: further special tokens, without names.
        added_tokens: tokens that the files declare, by id.
    """

    settings: Mapping[str, Any]
    special_tokens: Mapping[str, str]
    extra_special_tokens: tuple[AddedToken, ...]
    added_tokens: Mapping[int, AddedToken]

    @classmethod
    def read(cls, folder: Path) -> TokenizerConfig:
        """Read the files of a checkpoint; each may be missing.

        Raises:
            VocabularyError: a file is malformed.
        """
        settings = read_object(folder / "tokenizer_config.json")
        declared = settings.get("added_tokens_decoder")
        # special_tokens_map.json and added_tokens.json are an older form of added_tokens_decoder.
        older = {} if declared is not None else read_object(folder / "added_tokens.json")
        if declared is None:
            settings.update(read_object(folder / "special_tokens_map.json"))
        try:
            named = dict(_named_tokens(settings))
            extra = tuple(_extra_tokens(settings))
            special = {*named.values(), *(token.content for token in extra)}
            added = {int(id_): _added_token(token) for id_, token in (declared or {}).items()}
            added.update({int(id_): _older_token(text, special) for text, id_ in older.items()})
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise VocabularyError(
                f"the special tokens in {folder / 'tokenizer_config.json'} are malformed "
                f"({error}); fetch it again"
            ) from error
        return cls(settings, named, extra, added)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a checkpoint's tokenizer; truncation and padding that it asks for are off.

    Raises:
        VocabularyError: the folder or tokenizer.json is missing, or a file is malformed.
    """
    tokenizer = _read_tokenizer(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = TokenizerConfig.read(folder)
    tokenizer.add_tokens(_missing_tokens(tokenizer, config))
    tokenizer.encode_special_tokens = bool(config.settings.get("split_special_tokens"))
    _write_bos_and_eos(tokenizer, config)
    return tokenizer


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that is not there is an empty one.

    Raises:
        VocabularyError: the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path} is malformed ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise VocabularyError(f"{path} is malformed (not a JSON object); fetch it again")
    return content


def _read_tokenizer(folder: Path) -> Tokenizer:
    if not folder.is_dir():
        raise VocabularyError(f"checkpoint folder {folder} does not exist; name a folder that does")
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise VocabularyError(
            f"{path} is missing; convert the checkpoint's tokenizer with transformers' "
            f"save_pretrained of the fast tokenizer"
        )
    # The library raises bare Exception for whatever it dislikes; a future hands that over as a
    # value, so that only this call's failures are taken for a malformed file.
    with ThreadPoolExecutor(max_workers=1) as thread:
        loading = thread.submit(Tokenizer.from_file, str(path))
    error = loading.exception()
    if error is not None:
        raise VocabularyError(f"{path} is malformed ({error}); fetch it again") from error
    return loading.result()


def _named_tokens(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Special tokens by name, the standard names first, as templates see them."""
    own = [name for name in settings if name.endswith("_token") and name not in _STANDARD_NAMES]
    values = {name: settings.get(name) for name in (*_STANDARD_NAMES, *own)}
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        further = settings.get(key)
        values.update(further if isinstance(further, dict) else {})
    for name, value in values.items():
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            yield name, text


def _extra_tokens(settings: Mapping[str, Any]) -> Iterator[AddedToken]:
    extra = settings.get("extra_special_tokens")
    if not extra or isinstance(extra, dict):  # named ones stand beside the older list
        extra = settings.get("additional_special_tokens")
    for token in extra if isinstance(extra, list) else ():
        if isinstance(token, str):
            yield AddedToken(token, special=True)
        else:
            yield _added_token({"special": True, **token})


def _added_token(flags: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{name: flags[name] for name in _FLAGS if name in flags})


def _older_token(text: str, special_tokens: set[str]) -> AddedToken:
    special = text in special_tokens
    return AddedToken(text, normalized=not special, special=special)


def _missing_tokens(tokenizer: Tokenizer, config: TokenizerConfig) -> list[AddedToken]:
    """Tokens that the tokenizer lacks, or has with other flags, in order of their ids.

    Source: transformers' TokenizersBackend.__init__.
    """
    present = tokenizer.get_added_tokens_decoder()
    named = set(config.special_tokens.values())
    # The library never forgets that a token was special.
    special = named | {token.content for token in present.values() if token.special}
    declared = dict(config.added_tokens)
    if "added_tokens_decoder" not in config.settings:
        declared.update(present)
    spelled = {repr(token) for token in present.values()}
    missing = []
    for _, token in sorted(declared.items()):
        token.special = token.special or token.content in special
        if repr(token) not in spelled:
            missing.append(token)
    known = {token.content for token in (*present.values(), *missing)}
    new = [text for text in dict.fromkeys(config.special_tokens.values()) if text not in known]
    missing += [_named_token(text, config) for text in new]
    known.update(new)
    missing += [token for token in config.extra_special_tokens if token.content not in known]
    return [token for token in missing if token.content]


def _named_token(text: str, config: TokenizerConfig) -> AddedToken:
    """A named special token with the flags that the settings give it, if they give any."""
    for name in config.special_tokens:
        value = config.settings.get(name)
        if isinstance(value, dict) and value.get("content") == text:
            return _added_token({**value, "special": True})
    return AddedToken(text, special=True)


def _write_bos_and_eos(tokenizer: Tokenizer, config: TokenizerConfig) -> None:
    """Write bos and eos as the settings ask; what they leave open, tokenizer.json decides.

    Source: transformers 4's LlamaTokenizerFast.update_post_processor.
    """
    class_name = str(config.settings.get("tokenizer_class")).removesuffix("Fast")
    if class_name.removesuffix("Tokenizer") not in _BOS_BY_CONFIG:
        return
    written = tokenizer.encode("").ids
    parts = []
    for name in ("bos_token", "eos_token"):
        text = config.special_tokens.get(name)
        id_ = None if text is None else tokenizer.token_to_id(text)
        asked = config.settings.get(f"add_{name}", id_ in written)
        parts.append([(text, id_)] if asked and id_ is not None else [])
    bos, eos = parts
    if [id_ for _, id_ in bos + eos] != written:
        single = [*(text for text, _ in bos), "$A", *(text for text, _ in eos)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=bos + eos
        )

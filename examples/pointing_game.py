"""Scores whether explanations point at the object, on drawn scenes whose objects have known outlines.

The package must be a classifier of what `clearsight data demo` draws: one label per image, or several.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clearsight.catalogue.algorithms import CLASSIFIER_ALGORITHMS
from clearsight.console import AzCommand, emit, run, stderr
from clearsight.demo.containers import CONTAINERS
from clearsight.demo.scene import draw_scene
from clearsight.documents.settings import ClassificationSettings
from clearsight.errors import BadRequest, UserError
from clearsight.handlers.drawing.explanation_image import heat_map
from clearsight.handlers.explain.answering.quality import measure_faithfulness
from clearsight.handlers.explain.answering.scoring import ExplainingScorer, explaining_scorer
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.parameters import parse_xai_parameters
from clearsight.handlers.scoring.scorer import DEFAULT_LIMITS, Scorer, load_scorer
from clearsight.images.decode import decode_image
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task
from clearsight.testing.localisation import grow, mass_inside, pointing_score, tolerance_px
from clearsight.vision.preprocess import normalise, resize_and_crop
from clearsight.wire.answers import ClassificationAnswer

FULL: Final = "xrai, full"
RANDOM, CENTRE = "random map", "centre of the picture"
KINDS: Final = ("xrai", FULL, *(name for name in CLASSIFIER_ALGORITHMS if name not in ("xrai", "rise", "occlusion")))
HEIGHT, WIDTH = 240, 320
SCENES: Final = 2
"""Part of the seed, different from the numbers that `data demo` uses: no scene is in the training data."""
GIVE_UP_AFTER: Final = 10
"""Most scenes for one recognised object."""
THRESHOLD: Final = 0.5
"""Probability from which on a multi-label model recognises a label."""
JPEG_QUALITY: Final = 90

Floats = npt.NDArray[np.float32]
Heat = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An object to recognise."""

    image: bytes
    label: str
    mask_PP: Mask
    """Pixels of the network's input that objects of the label cover."""


@dataclass(frozen=True, slots=True)
class Score:
    """Scores of one map of one object."""

    pointing: float
    """1 if the strongest pixel lies on the object, 0 if not, in between for ties."""
    pointing_near: float
    """The same with the mask grown by the tolerance."""
    mass: float
    """Share of the heat on the object."""
    insertion_minus_deletion: float


@click.command(cls=AzCommand)
@click.argument("package")
@click.option("--algorithm", "kinds", multiple=True, metavar="NAME", help="Only these.  [default: all that are quick]")
@click.option("--num-objects", default=100, show_default=True, type=click.IntRange(1), help="Recognised objects.")
@click.option(
    "--n-steps", type=int, metavar="N", help="Of xrai and integrated gradients.  [default: the algorithms' own]"
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the scenes.")
@click.option("--easy", is_flag=True, help="Scenes without clutter, a colour for each class, as `data demo --easy`.")
@click.option("--tolerance", type=float, metavar="PIXELS", help="Of the input.  [default: a 16th of its side]")
@click.option("--output", "-o", default="table", show_default=True, type=click.Choice(["table", "json"]))
def main(
    package: str,
    kinds: tuple[str, ...],
    num_objects: int,
    n_steps: int | None,
    seed: int,
    easy: bool,
    tolerance: float | None,
    output: str,
) -> None:
    r"""Score explanations of PACKAGE (a folder, or azureml:NAME:VERSION) on drawn scenes with known outlines.

    \b
    pointing    how often the strongest pixel lies on the object
    near        or at most the tolerance beside it
    mass        share of the heat on the object; and the same over the object's share of the input
    insertion_minus_deletion    how much the probability depends on the strongest pixels

    Only objects that the model recognises count. A random map and one that always points at the centre show the scores
    of maps without information.

    \b
    Examples:
      python examples/pointing_game.py azureml:fridge:1
      python examples/pointing_game.py outputs/mlflow-model --algorithm xrai guided_gradcam --num-objects 200 -o json
    """
    if unknown := set(kinds) - {*KINDS, *CLASSIFIER_ALGORITHMS}:
        raise click.UsageError(
            f"--algorithm must be of {sorted({*KINDS, *CLASSIFIER_ALGORITHMS})}, but got {sorted(unknown)}"
        )
    scorer = load_scorer(ModelRegistry(Workspace.default()).resolve(package))
    if not isinstance(scorer.settings, ClassificationSettings) or set(scorer.labels) != set(CONTAINERS):
        raise UserError(
            f"the package must be a classifier of {sorted(CONTAINERS)}, as `clearsight data demo` draws them, "
            f"but its labels are {sorted(scorer.labels)}"
        )
    settings = scorer.settings
    tolerance = tolerance_px(settings.valid_crop_size) if tolerance is None else tolerance
    explaining = explaining_scorer(scorer)
    scores: dict[str, list[Score]] = {kind: [] for kind in (*(kinds or KINDS), RANDOM, CENTRE)}
    areas: list[float] = []
    columns = (TextColumn("objects"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("", total=num_objects)
        num_cases = 0
        for case in draw_cases(scorer.task, settings, seed, easy):
            if num_cases == GIVE_UP_AFTER * num_objects:
                raise UserError(
                    f"the model must recognise one object in {GIVE_UP_AFTER}, but recognised {len(areas)} of "
                    f"{num_cases}; train it on pictures of `clearsight data demo`, or use --easy if it was"
                )
            num_cases += 1
            if not is_recognised(scorer, case):
                continue
            areas.append(float(case.mask_PP.mean()))
            for kind, score in score_maps(
                explaining, scorer, settings, case, list(scores), n_steps, tolerance, [seed, len(areas)]
            ):
                scores[kind].append(score)
            progress.advance(task)
            if len(areas) == num_objects:
                break
    area = float(np.mean(areas))
    rows = [to_row(kind, of_kind, area) for kind, of_kind in scores.items() if of_kind]
    stderr.print(
        f"{scorer.package.model_name}, input of {settings.valid_crop_size} pixels: {num_objects} recognised of "
        f"{num_cases} objects; they cover {area:.3f} of the input; near: at most {tolerance:g} pixels beside"
    )
    if output == "table":
        emit(rows, output)
        return
    emit(
        {
            "model_name": scorer.package.model_name,
            "input_px": settings.valid_crop_size,
            "num_recognised": num_objects,
            "num_objects": num_cases,
            "object_area": round(area, 4),
            "tolerance_px": tolerance,
            "maps": rows,
        }
    )


def draw_cases(task: Task, settings: ClassificationSettings, seed: int, is_easy: bool) -> Iterator[Case]:
    """Endless objects: one per scene for multi-class models, one per label of a scene for multi-label models."""
    names = tuple(CONTAINERS)
    for index in count():
        rng = np.random.default_rng([seed, SCENES, index])
        labels = (names[index % len(names)],)
        if task is Task.MULTI_LABEL:
            labels = tuple(names[choice] for choice in rng.integers(len(names), size=rng.integers(2, 4)))
        scene = draw_scene(rng, HEIGHT, WIDTH, labels, is_easy=is_easy)
        stream = io.BytesIO()
        Image.fromarray(scene.image_HW3).save(stream, "JPEG", quality=JPEG_QUALITY)
        for label in sorted({drawn.label for drawn in scene.objects}):
            visible = [drawn.visible_HW for drawn in scene.objects if drawn.label == label]
            grey_HW = np.rint(255 * np.clip(np.sum(visible, axis=0), 0, 1)).astype(np.uint8)
            mask_PP = resize_and_crop(np.repeat(grey_HW[:, :, None], 3, axis=2), settings)[:, :, 0] >= 128
            if mask_PP.any():
                yield Case(stream.getvalue(), label, mask_PP)


def is_recognised(scorer: Scorer, case: Case) -> bool:
    (answer,) = scorer.score([case.image])
    if not isinstance(answer, ClassificationAnswer):
        raise UserError(f"the model must answer with probabilities, but answered {answer}")
    probability = answer.probs[scorer.labels.index(case.label)]
    return probability >= THRESHOLD if scorer.task is Task.MULTI_LABEL else probability == max(answer.probs)


def score_maps(
    explaining: ExplainingScorer,
    scorer: Scorer,
    settings: ClassificationSettings,
    case: Case,
    kinds: Sequence[str],
    n_steps: int | None,
    tolerance: float,
    seed: list[int],
) -> Iterator[tuple[str, Score]]:
    """Score the maps of one object; kinds that the model does not support are left out."""
    side = settings.valid_crop_size
    heats: dict[str, Heat] = {}
    for kind in kinds:
        if kind == RANDOM:
            heats[kind] = np.random.default_rng(seed).random((side, side))
        elif kind == CENTRE:
            y, x = np.mgrid[:side, :side] - (side - 1) / 2
            heats[kind] = -np.hypot(x, y) + side
        else:
            with suppress(BadRequest):  # attention of a convolutional network, CAMs of a transformer
                heats[kind] = heat_map(explain(explaining, kind, case, n_steps))
    image_HW3 = decode_image(case.image, DEFAULT_LIMITS)
    x_3PP = normalise(resize_and_crop(image_HW3, settings), settings.mean, settings.std)
    class_ids = [scorer.labels.index(case.label)] * len(heats)
    measured = measure_faithfulness(list(heats.values()), class_ids, x_3PP, scorer.class_probabilities, Deadline(None))
    near_PP = grow(case.mask_PP, tolerance)
    for (kind, heat_PP), figures in zip(heats.items(), measured, strict=True):
        assert figures is not None  # noqa: S101  there is no deadline
        yield (
            kind,
            Score(
                pointing_score(heat_PP, case.mask_PP),
                pointing_score(heat_PP, near_PP),
                mass_inside(heat_PP, case.mask_PP),
                figures.insertion_auc - figures.deletion_auc,
            ),
        )


def explain(explaining: ExplainingScorer, kind: str, case: Case, n_steps: int | None) -> Floats:
    parameters = {
        "xai_algorithm": "xrai" if kind == FULL else kind,
        "xrai_fast": kind != FULL,
        "target_labels": [case.label],
        "n_steps": n_steps,
        "visualizations": False,
        "attributions": True,
    }
    _, (found,) = explaining.explain(case.image, parse_xai_parameters(parameters, algorithms=CLASSIFIER_ALGORITHMS))
    return found.values


def to_row(kind: str, scores: list[Score], area: float) -> dict[str, Any]:
    means = {name: float(np.mean([getattr(score, name) for score in scores])) for name in Score.__slots__}
    return {
        "map": kind,
        "pointing": round(means["pointing"], 2),
        "pointing_near": round(means["pointing_near"], 2),
        "mass": round(means["mass"], 2),
        "mass_over_area": round(means["mass"] / area, 2),
        "insertion_minus_deletion": round(means["insertion_minus_deletion"], 3),
    }


if __name__ == "__main__":
    sys.exit(run(main, prog_name="pointing_game.py"))

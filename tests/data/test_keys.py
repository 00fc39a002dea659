from collections.abc import Callable

from clearsight.training.data.keys import likely_meant

BOX = ("label", "isCrowd", "topX", "topY", "bottomX", "bottomY")
POLYGON = ("label", "isCrowd", "polygon")


def test_keys_that_are_almost_those_of_the_format_are_recognised(check_rows: Callable[..., None]) -> None:
    def check(keys: str, known: tuple[str, ...], expected: str) -> None:
        assert " ".join(f"{key}={meant}" for key, meant in likely_meant(tuple(keys.split()), known)) == expected

    check_rows(
        check,
        [
            ("", BOX, ""),
            ("label isCrowd topX topY bottomX bottomY", BOX, ""),
            ("label topX topY bottomX bottomY id area score truncated pose", BOX, ""),
            ("label iscrowd", BOX, "iscrowd=isCrowd"),
            ("label is_crowd", BOX, "is_crowd=isCrowd"),
            ("label isCrowd iscrowd", BOX, ""),
            ("label crowd difficult", POLYGON, "crowd=isCrowd difficult=isCrowd"),
            ("Label topx TOP_Y bottom-x bottomY", BOX, "Label=label topx=topX TOP_Y=topY bottom-x=bottomX"),
            ("label botomX", BOX, "botomX=bottomX"),
            ("label bbox", BOX, "bbox=topX"),
            ("label bbox polygon", POLYGON, ""),
            ("label polygons", POLYGON, "polygons=polygon"),
            ("class segmentation", POLYGON, "class=label segmentation=polygon"),
        ],
    )

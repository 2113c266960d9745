"""Problems found in annotations, counted for the user."""

from dataclasses import dataclass, field

from xingaug.keypoints import JOINTS

_EXAMPLES = 3


@dataclass
class Finding:
    """How often a problem occurred, with the first few examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Counts one more occurrence."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example[:200])


@dataclass
class Report:
    """Problems found in annotations, and how they were handled.

    Attributes:
        duplicates: rows that repeat the name of an earlier row; dropped.
        wrong_counts: rows without 18 y and 18 x; dropped.
        outside_frame: joints outside the frame; marked missing.
        other_frame: images whose aspect ratio differs from the one in the file; dropped.
        scaled: images whose size differs from the one in the file, or with relative coordinates; scaled.
        without_image: rows whose image is not in the split.
        without_row: images of the split that have no row.
        without_person: images in which no person was found; dropped.
        several_persons: images with more than one person; the one with the highest confidence is kept.
        unreadable: images that cannot be read.
    """

    duplicates: Finding = field(default_factory=Finding)
    wrong_counts: Finding = field(default_factory=Finding)
    outside_frame: Finding = field(default_factory=Finding)
    other_frame: Finding = field(default_factory=Finding)
    scaled: Finding = field(default_factory=Finding)
    without_image: Finding = field(default_factory=Finding)
    without_row: Finding = field(default_factory=Finding)
    without_person: Finding = field(default_factory=Finding)
    several_persons: Finding = field(default_factory=Finding)
    unreadable: Finding = field(default_factory=Finding)

    def lines(self) -> list[str]:
        """One line for each kind of finding that occurred."""
        texts = (
            (self.duplicates, "rows repeat a name and were dropped"),
            (self.wrong_counts, f"rows do not hold {len(JOINTS)} joints and were dropped"),
            (self.outside_frame, "joints lie outside the frame and count as missing"),
            (self.other_frame, "images have another shape than the file says and were dropped"),
            (self.scaled, "images have another size than the file says, or shares of it there; joints were scaled"),
            (self.without_image, "rows name an image that is not in the split"),
            (self.without_row, "images of the split have no row"),
            (self.without_person, "images show no person and were dropped"),
            (self.several_persons, "images show several persons; the one of highest confidence was taken"),
            (self.unreadable, "images cannot be read"),
        )
        return [
            f"{finding.count} {text}: {', '.join(finding.examples)}{', ...' * (finding.count > len(finding.examples))}"
            for finding, text in texts
            if finding.count
        ]

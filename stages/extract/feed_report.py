"""What bound the feed: how busy its parts were, and the flag that would help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeedReport:
    """Seconds of work of each part of a feed, beside the time that it took in all."""

    seconds: float
    tiles: int
    """That went through the backbone's batches, bad ones too."""
    device: str
    """Type of the backbone's: cpu, cuda, mps."""
    precision: str
    batch_size: int
    threads: int
    """That decode."""
    streams: int
    """Batches computed at a time."""
    cores: int
    """Of the machine."""
    decoding: float
    """Over all threads."""
    computing: float
    """Over all streams."""
    writing: float
    opening: float
    """That the feed waited for the next slide to be opened."""
    resampled: bool = False
    """Whether tiles were resized after reading."""
    piece: int | None = None
    """Tiles computed at a time, where the GPU's memory did not suffice for a batch."""

    @property
    def busy(self) -> dict[str, float]:
        """Fraction of the time that each part was at work."""
        whole = {
            "decoding": (self.decoding, self.threads),
            "the backbone": (self.computing, self.streams),
            "writing": (self.writing, 1),
            "opening slides": (self.opening, 1),
        }
        return {part: min(1.0, work / (count * max(self.seconds, 1e-9))) for part, (work, count) in whole.items()}

    @property
    def bound_by(self) -> str:
        """The part that was busiest."""
        return max(self.busy, key=lambda part: self.busy[part])

    def sentences(self) -> list[str]:
        """For the summary; nothing where there was nothing to do."""
        if not self.tiles:
            return []
        busy, part = self.busy, self.bound_by
        others = ", ".join(f"{name} {share:.0%}" for name, share in busy.items() if name != part)
        rate = f"{self.tiles / max(self.seconds, 1e-9):,.0f} tiles/s"
        said = [f"{part} bound it ({busy[part]:.0%} busy; {others}; {rate}): {self._way_out(part)}"]
        if self.piece is not None:
            said.append(
                f"out of memory: a batch of {self.batch_size} tiles was computed {self.piece} at a time; "
                f"--batch-size {self.piece} does without the search"
            )
        return said

    def _way_out(self, part: str) -> str:
        if part == "the backbone":
            return self._faster_backbone()
        if part == "writing":
            return "a faster disk for the workspace would help"
        if part == "opening slides":
            return "slides are small, or the storage is slow: copy them to a local disk"
        ways = []
        if self.threads < self.cores:
            ways.append(f"try --threads {min(2 * self.threads, self.cores)}")
        if self.resampled:
            ways.append("tile at an --mpp that a level of the slides has, so that tiles are not resized")
        return ", or ".join(ways) or "a machine with more cores, or slides on a faster disk, would help"

    def _faster_backbone(self) -> str:
        if self.device == "cpu":
            more = f"--threads {self.cores}, or " if self.streams < self.cores else ""
            return f"{more}a GPU, or a smaller --backbone, would help"
        if self.precision == "fp32":
            return "--precision bf16 or a larger --batch-size would help"
        return "as it should be; a larger --batch-size, --compile or another GPU may still help"

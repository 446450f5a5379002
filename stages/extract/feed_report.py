"""The bottleneck of the feed: how busy its parts were, and which flag would help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeedReport:
    """Seconds of work of each part of a feed, and the time that it took in total."""

    seconds: float
    tiles: int
    """Number of tiles in the backbone's batches, including bad ones."""
    device: str
    """Type of the backbone's device: cpu, cuda, mps."""
    precision: str
    batch_size: int
    threads: int
    """Number of decode threads."""
    streams: int
    """Batches computed at a time."""
    cores: int
    """Cores of the machine."""
    decoding: float
    """Seconds of decoding, summed over threads."""
    computing: float
    """Seconds of computing, summed over streams."""
    writing: float
    opening: float
    """Seconds that the feed waited for the next slide to be opened."""
    resampled: bool = False
    """Whether tiles were resized after reading."""
    piece: int | None = None
    """Tiles computed at a time, if the GPU's memory was too small for a batch."""

    @property
    def busy(self) -> dict[str, float]:
        """Fraction of the time that each part was working."""
        whole = {
            "decoding": (self.decoding, self.threads),
            "backbone": (self.computing, self.streams),
            "writing": (self.writing, 1),
            "opening slides": (self.opening, 1),
        }
        return {part: min(1.0, work / (count * max(self.seconds, 1e-9))) for part, (work, count) in whole.items()}

    @property
    def bound_by(self) -> str:
        """The busiest part."""
        return max(self.busy, key=lambda part: self.busy[part])

    def sentences(self) -> list[str]:
        """Describe the bottleneck for the summary; empty if there was nothing to do."""
        if not self.tiles:
            return []
        busy, part = self.busy, self.bound_by
        others = ", ".join(f"{name} {100 * share:.0f} %" for name, share in busy.items() if name != part)
        rate = f"{self.tiles / max(self.seconds, 1e-9):,.0f} tiles/s"
        lines = [f"bottleneck: {part} ({100 * busy[part]:.0f} % busy; {others}; {rate}): {self._way_out(part)}"]
        if self.piece is not None:
            lines.append(
                f"out of memory: batches of {self.batch_size} tiles were computed {self.piece} at a time; "
                f"--batch-size {self.piece} avoids the search for this size"
            )
        return lines

    def _way_out(self, part: str) -> str:
        if part == "backbone":
            return self._faster_backbone()
        if part == "writing":
            return "a faster disk for the workspace would help"
        if part == "opening slides":
            return "slides are small, or the storage is slow: copy them to a local disk"
        ways = []
        if self.threads < self.cores:
            ways.append(f"try --threads {min(2 * self.threads, self.cores)}")
        if self.resampled:
            ways.append("tile at the --mpp of one of the slides' levels, so that tiles are not resized")
        return ", or ".join(ways) or "a machine with more cores, or slides on a faster disk, would help"

    def _faster_backbone(self) -> str:
        if self.device == "cpu":
            more = f"--threads {self.cores}, or " if self.streams < self.cores else ""
            return f"{more}a GPU, or a smaller --backbone, would help"
        if self.precision == "fp32":
            return "--precision bf16 or a larger --batch-size would help"
        return "this is the best case; --compile may make it a quarter faster, another GPU more"

"""The commands in groups, and examples of each as they are typed."""

from __future__ import annotations

from typing import Final

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Start here": ("demo", "init", "doctor", "check", "run"),
    "Stage by stage": ("tile", "extract", "encode", "genomics", "train", "predict", "evaluate"),
    "Compare": ("compare", "robustness"),
    "Look": ("status", "view", "backbones", "encoders"),
    "Keep": ("verify", "clean"),
    "Exchange with other programs": ("export", "import", "import-checkpoint"),
    "Other machines": ("cluster",),
}
"""Title → the commands under it; those of stages that others register come after these."""

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "demo": ("wsipipe demo",),
    "init": ("wsipipe init", "wsipipe init --print"),
    "doctor": ("wsipipe doctor --backbone uni2-h --gpu 0",),
    "check": ("wsipipe check", "wsipipe check && wsipipe run"),
    "run": ("wsipipe run", "wsipipe run --gpu 0,1"),
    "tile": ("wsipipe tile slides/ --mpp 0.5 --tile-px 224",),
    "extract": ("wsipipe extract --backbone uni2-h --gpu all",),
    "encode": ("wsipipe encode", "wsipipe encode --encoder feather --weights feather.safetensors"),
    "genomics": ("wsipipe genomics expression.tsv.gz --unit counts",),
    "train": (
        "wsipipe train --name her2 --table cohort.csv --label-column HER2 \\\n"
        "    --positive positive --negative negative",
    ),
    "predict": ("wsipipe predict new_slides/", "wsipipe predict new_slides/ --model her2 --prevalence 0.15"),
    "evaluate": ("wsipipe evaluate --table external.csv --model ../here/work/models/her2",),
    "compare": ("wsipipe compare --name her2 --methods momkd --methods abmil+soft",),
    "robustness": ("wsipipe robustness --name her2 --columns site --columns scanner",),
    "status": ("wsipipe status", "wsipipe status --watch"),
    "view": ("wsipipe view work",),
    "backbones": ("wsipipe backbones",),
    "encoders": ("wsipipe encoders",),
    "verify": ("wsipipe verify --deep", "wsipipe verify work/models/her2"),
    "clean": ("wsipipe clean", "wsipipe clean features/0.5mpp-224px/uni2-h --yes"),
    "export": ("wsipipe export trident", "wsipipe export anndata --features 0.5mpp-224px/uni2-h"),
    "import": (
        "wsipipe import trident_features/ --backbone uni2-h",
        "wsipipe import slide_features_titan/ --mpp 0.5",
    ),
    "import-checkpoint": (
        "wsipipe import-checkpoint s_0_mkd_checkpoint.pt --name her2 \\\n"
        "    --backbone uni2-h --mpp 2 --tile-px 224 --label-column HER2",
    ),
    "cluster": ("wsipipe cluster --show",),
}
"""Command → examples."""

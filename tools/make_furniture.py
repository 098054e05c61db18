"""Builds the embedded furniture, avae/data/furniture/, from an archive of voxelised models.

    python tools/make_furniture.py path/to/furniture32.npz

The source holds `voxels` [N, 4096] (32^3 bits packed to bytes; axes x right, y up, z toward the viewer) and `name`,
`category`, `source` and `creator` [N] of each model. They are kept as they are; the notice names every creator.
"""

import pathlib
import sys
import textwrap

import numpy as np

KEPT = ("voxels", "name", "category", "source", "creator")
CC_BY = ("Creative Commons Attribution 3.0 (CC BY 3.0)", "https://creativecommons.org/licenses/by/3.0/")
CC0 = ("Creative Commons Zero 1.0 (CC0, public domain)", "https://creativecommons.org/publicdomain/zero/1.0/")
LICENCES = {"Scopia": CC_BY, "KatorLegaz": CC_BY, "Reallusion": CC_BY, "BlendSwap-CC-BY": CC_BY, "BlendSwap-CC-0": CC0}
TARGET = pathlib.Path(__file__).parent.parent / "avae" / "data" / "furniture"


def main(source: str) -> None:
    """Copies the arrays, compressed, and writes the notice."""
    with np.load(source) as archive:
        arrays = {key: archive[key] for key in KEPT}
    TARGET.mkdir(exist_ok=True)
    np.savez_compressed(TARGET / "furniture.npz", **arrays)
    (TARGET / "NOTICE.md").write_text(notice(arrays), encoding="utf-8")
    print(f"{TARGET}: {len(arrays['name'])} models, {(TARGET / 'furniture.npz').stat().st_size / 1e3:.1f} kB")


def notice(arrays: dict[str, np.ndarray]) -> str:
    """Who made what, under which licence: every source, its creators, and the titles of their models."""
    names, sources, creators = arrays["name"], arrays["source"], arrays["creator"]
    text = textwrap.fill(
        f"`furniture.npz` holds {len(names)} models of furniture and household objects from the additional furniture "
        "libraries of Sweet Home 3D, copied by `tools/make_furniture.py`. Changes: each model was turned into 32 x 32 "
        "x 32 voxels (its surface sampled, scaled so that its longest side is 22 voxels, centred and filled); "
        "materials, colours and finer shape are lost. The arrays `name`, `source` and `creator` of the file say the "
        "same, model by model.",
        120,
    )
    lines = ["# Embedded furniture", "", text, ""]
    for source in sorted(set(sources.tolist())):
        licence, url = LICENCES[source]
        of_source = sources == source
        lines += [f"## {source} ({of_source.sum()} models)", "", f"Licence: {licence}, {url}", ""]
        for creator in sorted(set(creators[of_source].tolist()), key=str.casefold):
            titles = "; ".join(sorted(set(names[of_source & (creators == creator)].tolist()), key=str.casefold))
            lines.append(textwrap.fill(f"- {creator}: {titles}", 120, subsequent_indent="  ", break_on_hyphens=False))
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])

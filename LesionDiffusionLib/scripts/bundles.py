"""List, show, check, import or delete model bundles."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("bundles")

from LesionDiffusionLib.errors import BundleError
from LesionDiffusionLib.scripts.wording import add_text_encoder_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion bundles`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    parser.set_defaults(action="list")
    actions.add_parser("list", help="installed bundles (default)")
    show = actions.add_parser("show", help="print a bundle's card")
    check = actions.add_parser("check", help="verify a bundle's hashes and load its networks")
    for action in (show, check):
        action.add_argument("bundle", help="name or folder")
    add_text_encoder_arguments(check, "a bundle that does not hold it")
    delete = actions.add_parser("delete", help="delete one of your own bundles")
    delete.add_argument("bundle", help="name")
    released = actions.add_parser("import-released", help="make a bundle from the authors' checkpoints")
    released.add_argument("--lmnet", required=True, type=Path, help="LMNet.ckpt")
    released.add_argument("--linet", required=True, type=Path, help="LINet.ckpt")
    released.add_argument("--vq", type=Path, help="VQ.ckpt; not needed where LINet.ckpt holds the autoencoder")
    released.add_argument(
        "--vocabulary", type=Path, help="BiomedCLIP's vocab.txt, to keep the text encoder in the bundle"
    )
    released.add_argument("--name", default="released", help="name of the new bundle (default: released)")
    released.add_argument("--folder", type=Path, help="folder to put it in (default: your own bundles folder)")
    released.add_argument(
        "--linet-text",
        choices=("auto", "use", "skip"),
        default="auto",
        help="whether LINet is given the report (default: what the weights show)",
    )
    for network in ("lmnet", "linet"):
        released.add_argument(f"--{network}-window", metavar="D,H,W", help="another window in voxels of 1 mm")


def run(args: argparse.Namespace) -> int:
    """Dispatch on the action."""
    return {"list": _list, "show": _show, "check": _check, "delete": _delete, "import-released": _import}[args.action](
        args
    )


def _list(_: argparse.Namespace) -> int:
    from LesionDiffusionLib.bundle_folders import installed_bundles, user_bundles_dir

    for name, folder in installed_bundles().items():
        print(f"{name}\t{folder}")
    print(f"your own bundles belong in {user_bundles_dir()}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from LesionDiffusionLib.bundles import open_bundle

    bundle = open_bundle(args.bundle)
    manifest = bundle.manifest
    print(f"{manifest.name}: {manifest.title}\nlicense: {manifest.license}\nfolder: {bundle.folder}")
    for name, window in (("LMNet", manifest.lmnet.window), ("LINet", manifest.linet.window)):
        limit = "x".join(f"{v:.0f}" for v in window.largest_lesion_mm)
        print(f"{name}: window {window.shape} voxels, lesions up to {limit} mm")
    card = bundle.folder / "README.md"
    if card.is_file():
        print("\n" + card.read_text(encoding="utf-8"))
    return 0


def _check(args: argparse.Namespace) -> int:
    from LesionDiffusionLib.bundles import open_bundle
    from LesionDiffusionLib.devices import resolve_device
    from LesionDiffusionLib.models import load_models

    bundle = open_bundle(args.bundle)
    load_models(bundle, resolve_device("cpu"), args.text_encoder, args.allow_download)
    print(f"{bundle.manifest.name}: {len(bundle.manifest.files)} files match their hashes and the networks load")
    return 0


def _delete(args: argparse.Namespace) -> int:
    from LesionDiffusionLib.bundle_folders import delete_bundle

    print(f"deleted {delete_bundle(args.bundle)}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from LesionDiffusionLib.bundle_folders import user_bundles_dir
    from LesionDiffusionLib.released.importer import ImportOptions, Sources, import_released

    if args.name in ("", "..") or Path(args.name).name != args.name:
        raise BundleError(f"expected a plain name for the bundle, got {args.name!r}; give the place as --folder")
    windows = {
        name: _window(text) for name in ("lmnet_window", "linet_window") if (text := getattr(args, name)) is not None
    }
    sources = Sources(args.lmnet, args.linet, args.vq, args.vocabulary)
    options = ImportOptions(args.linet_text, **windows)
    imported = import_released(sources, (args.folder or user_bundles_dir()) / args.name, options)
    for warning in imported.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("\n".join(imported.evidence))
    print(f"made the bundle {imported.bundle.manifest.name} in {imported.bundle.folder}")
    return 0


def _window(text: str) -> tuple[int, int, int]:
    try:
        depth, height, width = map(int, text.split(","))
    except ValueError:
        raise BundleError(f"expected a window as D,H,W in voxels, such as 64,152,152, got {text!r}") from None
    return depth, height, width

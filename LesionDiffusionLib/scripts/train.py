"""Train the autoencoder, the mask network or the inpainting network on a prepared dataset.

Also runs as a script, without being installed: `python LesionDiffusionLib/scripts/train.py lmnet ...`, by `torchrun`,
and by `Slicer --no-main-window --python-script LesionDiffusionLib/scripts/train.py lmnet ...`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the library is two folders up, and this folder's names must hide nothing
    _HERE = Path(__file__).resolve().parent
    sys.path[:] = [str(_HERE.parents[1]), *(path for path in sys.path if Path(path).resolve() != _HERE)]
    from LesionDiffusionLib.scripts.headless import run_as_script

    run_as_script("train")

from LesionDiffusionLib.errors import BundleError, SettingsError, TrainingError
from LesionDiffusionLib.scripts.wording import add_text_encoder_arguments

NETWORKS, PRESET_NAMES = ("vqgan", "lmnet", "linet"), ("paper", "released", "starter")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lesiondiffusion train`."""
    parser.add_argument("network", choices=NETWORKS, help="what to train")
    parser.add_argument("--data", required=True, type=Path, help="folder that 'lesiondiffusion prepare' has made")
    parser.add_argument("--out", required=True, type=Path, help="folder for checkpoint, logs and weights")
    parser.add_argument("--resume", action="store_true", help="continue the training in --out, if one was begun")
    parser.add_argument("--dry-run", action="store_true", help="say what would run and what is missing, and stop")
    settings = parser.add_argument_group("settings (later ones win)")
    settings.add_argument("--preset", choices=PRESET_NAMES, default="paper", help="default: paper")
    settings.add_argument("--config", type=Path, metavar="FILE", help="TOML or JSON with settings that differ")
    settings.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as loop.steps=1000")
    settings.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; torchrun gives each its own GPU")
    settings.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    settings.add_argument("--no-tensorboard", action="store_true", help="write no TensorBoard events")
    parts = parser.add_argument_group("other networks")
    parts.add_argument("--autoencoder", metavar="BUNDLE_OR_FOLDER", help="LINet's; a bundle, or --out of a training")
    add_text_encoder_arguments(parts, "text.encoder=biomedclip")
    parts.add_argument(
        "--lpips", type=Path, metavar="FILE", help="weights of the perceptual distance, for losses.lpips"
    )
    bundle = parser.add_argument_group("bundle")
    bundle.add_argument("--export-bundle", metavar="NAME", help="make a bundle of the result and of --with")
    bundle.add_argument(
        "--with",
        dest="others",
        action="append",
        default=[],
        metavar="BUNDLE_OR_FOLDER",
        help="where the bundle's other networks come from; later ones win (default: --autoencoder)",
    )
    bundle.add_argument("--bundle-folder", type=Path, help="folder to put it in (default: your own bundles folder)")
    bundle.add_argument("--license", help="of the weights, for the model card (default: not stated)")


def run(args: argparse.Namespace) -> int:
    """Train, then export."""
    from LesionDiffusionLib.devices import repeatable, resolve_device, use_threads
    from LesionDiffusionLib.memory import clear_memory_errors
    from LesionDiffusionLib.training import ranks
    from LesionDiffusionLib.training.presets import load_config
    from LesionDiffusionLib.training.trainer import make_folder, require_start, train

    training = load_config(args.network, args.preset, args.config, args.set)
    _require_used(args, training)
    use_threads(args.threads)
    device = resolve_device(args.device)
    if args.dry_run:
        _tell(args, training, device)
    target = _bundle_folder(args)
    inputs = _inputs(args, training, device)
    if target is not None:
        _require_bundle(args, training, inputs)
    start = require_start(training, inputs, args.out, args.resume, not args.no_tensorboard)
    if args.dry_run:
        return 0
    with ranks.joined_ranks(device), clear_memory_errors(device), repeatable():
        if ranks.rank() == 0:
            make_folder(args.out)
        train(args.network, training, inputs, start, not args.no_tensorboard, args.told)
        if ranks.rank() == 0:
            print(f"weights in {args.out}")
            if target is not None:
                _export(args, target)
    return 0


def _require_used(args: argparse.Namespace, training) -> None:
    """Raises SettingsError for an option that would do nothing."""
    heard = args.network != "vqgan" and training.text.encoder == "biomedclip"
    judged = args.network == "vqgan" and training.losses.lpips > 0
    exported = args.export_bundle is not None
    for option, given, used, needed in (
        ("--text-encoder", args.text_encoder, heard, "a network with text.encoder=biomedclip"),
        ("--allow-download", args.allow_download, args.text_encoder, "--text-encoder"),
        ("--lpips", args.lpips, judged, "a vqgan with losses.lpips above 0"),
        ("--autoencoder", args.autoencoder, exported or args.network == "linet", "train linet or --export-bundle"),
        ("--with", args.others, exported, "--export-bundle"),
        ("--bundle-folder", args.bundle_folder, exported, "--export-bundle"),
        ("--license", args.license, exported, "--export-bundle"),
    ):
        if given and not used:
            raise SettingsError(f"{option} would do nothing here: it needs {needed}; add that or leave it out")


def _inputs(args: argparse.Namespace, training, device):
    """What the training needs; told here when it does not fit, before a folder is made."""
    from LesionDiffusionLib.training.bundling import parts_of
    from LesionDiffusionLib.training.inputs import Inputs, require_inputs

    part = None
    if args.autoencoder:
        part = parts_of(args.autoencoder).get("vqgan")
        if part is None:
            raise TrainingError(f"{args.autoencoder} holds no autoencoder; give a bundle or a training of vqgan")
    text = _text_encoder(args.text_encoder, args.allow_download, device)
    inputs = Inputs(args.data, device, part, text, _lpips(args.lpips, device))
    require_inputs(training, inputs)
    return inputs


def _text_encoder(name: str | None, allow_download: bool, device):
    if name is None:
        return None
    from LesionDiffusionLib.networks.text_tower import BiomedCLIPTextEncoder

    if Path(name).is_dir():
        encoder = BiomedCLIPTextEncoder.from_folder(Path(name))
    else:
        encoder = BiomedCLIPTextEncoder.from_hub(name, allow_download)
    encoder.tower.to(device)
    return encoder


def _lpips(path: Path | None, device):
    if path is None:
        return None
    from LesionDiffusionLib.networks.lpips import load_lpips

    return load_lpips(path).to(device)


def _bundle_folder(args: argparse.Namespace) -> Path | None:
    """Where the bundle goes. Raises BundleError."""
    if args.export_bundle is None:
        return None
    from LesionDiffusionLib.bundle_folders import user_bundles_dir

    name = args.export_bundle
    if name in ("", "..") or Path(name).name != name:
        raise BundleError(f"expected a plain name for the bundle, got {name!r}; give the place as --bundle-folder")
    folder = (args.bundle_folder or user_bundles_dir()) / name
    if folder.exists():
        raise BundleError(f"expected a new bundle, but {folder} exists; delete it or choose another --export-bundle")
    return folder


def _require_bundle(args: argparse.Namespace, training, inputs) -> None:
    """Tell before days of training that these networks make no bundle. Raises TrainingError, BundleError."""
    from LesionDiffusionLib.training.bundling import make_manifest, promised_part

    if args.network == "vqgan":
        own = {"vqgan": _finished_autoencoder(args, training)}
    else:
        own = {args.network: promised_part(training, inputs.autoencoder)}
    make_manifest(args.export_bundle, _other_parts(args) | own, _license(args))


def _finished_autoencoder(args: argparse.Namespace, training):
    """The autoencoder in --out. Raises TrainingError when it has still to learn: no LINet knows its latents then."""
    from LesionDiffusionLib.training.bundling import RUN, parts_of

    part = parts_of(str(args.out)).get("vqgan") if args.resume and (args.out / RUN).is_file() else None
    if part is None or part.made_by["steps"] != training.loop.steps:
        raise TrainingError(
            "a bundle needs a LINet that learned on this autoencoder, and an LMNet, which come after it; "
            f"leave out --export-bundle here and give it to 'train linet --autoencoder {args.out} --with LMNET'"
        )
    return part


def _license(args: argparse.Namespace) -> str:
    return args.license or "not stated"


def _export(args: argparse.Namespace, folder: Path) -> None:
    from LesionDiffusionLib.training.bundling import export_bundle, parts_of

    export_bundle(folder, _other_parts(args) | parts_of(str(args.out)), _license(args))
    print(f"bundle in {folder}")


def _other_parts(args: argparse.Namespace) -> dict:
    """The networks that --autoencoder and --with name; later ones win."""
    from LesionDiffusionLib.training.bundling import parts_of

    parts = {}
    for source in (*([args.autoencoder] if args.autoencoder else []), *args.others):
        parts |= parts_of(source)
    return parts


def _tell(args: argparse.Namespace, training, device) -> None:
    """Settings, cases, size of the network."""
    import dataclasses

    from LesionDiffusionLib.networks.unet import UNet3D
    from LesionDiffusionLib.networks.vqgan import VQGAN
    from LesionDiffusionLib.training.ranks import announced_size
    from LesionDiffusionLib.training.trainer import usable_cases

    cases = usable_cases(training, args.data)
    network = (VQGAN if args.network == "vqgan" else UNet3D)(training.network)
    processes = announced_size()
    told = {
        "network": args.network,
        "parameters": sum(p.numel() for p in network.parameters()),
        "training_cases": len(cases),
        "left_out": dict(cases.left_out),
        "device": str(device),
        "processes": processes,
        "samples_per_step": processes * training.loop.batch,
        "out": str(args.out),
        "settings": dataclasses.asdict(training),
    }
    print(json.dumps(told, indent=2), flush=True)

"""Python packages that the worker needs: found out without importing them, installed only with the user's consent."""

from __future__ import annotations

from pathlib import Path

from LesionDiffusionLib.errors import LesionDiffusionError
from LesionDiffusionLib.resources import resource_path

TORCH = "torch>=2.3"
REQUESTER = "LesionDiffusion"


class MissingPackagesError(LesionDiffusionError):
    """Packages are missing and cannot be installed here."""


def requirement_files(encoder: str) -> list[Path]:
    """The requirement files of a bundle with this text encoder."""
    names = ["requirements.txt", *(["requirements-biomedclip.txt"] if encoder == "biomedclip" else [])]
    return [resource_path(name) for name in names]


def missing_packages(encoder: str = "vocabulary") -> list[str]:
    """Requirements that are not satisfied, such as "torch>=2.3"; nothing is imported or downloaded."""
    import slicer.packaging

    wanted = [TORCH, *(str(r) for path in requirement_files(encoder) for r in slicer.packaging.load_requirements(path))]
    return [requirement for requirement in wanted if not slicer.packaging.pip_check(requirement)]


def require_packages(encoder: str = "vocabulary") -> None:
    """For scripts without a window: no dialog, no installation.

    Raises:
        MissingPackagesError: says what to run.
    """
    missing = missing_packages(encoder)
    if missing:
        quoted = " ".join(f'"{requirement}"' for requirement in missing)
        raise MissingPackagesError(
            f"Python packages are missing: {', '.join(missing)}; install them: PythonSlicer -m pip install {quoted}"
        )


def ensure_packages(encoder: str = "vocabulary") -> bool:
    """Install what is missing, after asking. Returns False when the user declines.

    torch comes by the PyTorch extension, which chooses the build for the computer's GPU.

    Raises:
        MissingPackagesError: torch is missing and so is the PyTorch extension, its installation failed, or packages are
            missing still.
        subprocess.CalledProcessError: pip failed.
    """
    if not missing_packages(encoder):
        return True
    import slicer.packaging

    if TORCH in missing_packages(encoder) and not _install_torch():
        return False
    try:
        for path in requirement_files(encoder):
            slicer.packaging.pip_ensure(slicer.packaging.load_requirements(path), requester=REQUESTER)
    except RuntimeError:  # how pip_ensure says that the user declined
        return False
    require_packages(encoder)
    return True


def _install_torch() -> bool:
    try:
        import PyTorchUtils
    except ImportError:
        raise MissingPackagesError(
            'PyTorch is missing: install the extension "PyTorch" (Extensions Manager), restart Slicer, and run again'
        ) from None
    logic = PyTorchUtils.PyTorchUtilsLogic()
    version = TORCH.removeprefix("torch")
    try:
        return logic.installTorch(askConfirmation=True, torchVersionRequirement=version) is not None
    except (RuntimeError, ImportError) as error:  # it imports torch when it has installed it
        raise MissingPackagesError(f"PyTorch could not be installed: {error}; restart Slicer and try again") from error

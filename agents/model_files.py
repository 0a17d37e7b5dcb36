"""What a folder must hold to be opened as a model. Looks at file names only; opens nothing."""

from pathlib import Path

__all__ = ["find_fault"]


def find_fault(name: str) -> str | None:
    """What keeps a model folder from being opened; None where nothing does, or for a hub name.

    Args:
        name: an absolute path, or anything else for a hub name unless it is a folder.
    """
    folder = Path(name)
    if not folder.is_dir():
        return f"{folder}: no such model folder" if folder.is_absolute() else None
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            return f"{folder}: not a usable model folder, it has no {file}"
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        return f"{folder}: not a usable model folder, it has no *.safetensors or *.bin weights"
    return None

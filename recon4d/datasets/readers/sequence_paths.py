"""Search for the folders of sequences."""

from pathlib import Path

from recon4d.errors import UserError, os_errors_as_user_errors


def list_folder(folder: Path) -> list[Path]:
    """List the contents of a folder that the user named.

    Args:
        folder: The folder.

    Returns:
        Files and folders in it, sorted by path.

    Raises:
        UserError: If it is not a folder or cannot be read.
    """
    with os_errors_as_user_errors():
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        return sorted(folder.iterdir())


def find_sequence_folders(root: Path, file: str) -> dict[str, Path]:
    """Find the folders that contain a characteristic file.

    Args:
        root: A sequence, or a folder of sequences.
        file: Name of a file that every sequence contains.

    Returns:
        `root` itself if it contains `file`, else those of its subfolders that do; folders by name.

    Raises:
        UserError: If there are none.
    """
    contents = list_folder(root)
    if (root / file).is_file():
        return {root.resolve().name: root}
    folders = {folder.name: folder for folder in contents if (folder / file).is_file()}
    if not folders:
        raise UserError(f"{root} contains no {file}, and neither do its subfolders")
    return folders

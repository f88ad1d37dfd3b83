"""Pictures from files, as a network's input."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cnnvjp.training.errors import UsageError

BLACK = (0, 0, 0, 255)
GREYS_16 = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_picture(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Reads a picture of any size and kind that Pillow knows.

    It is turned as its EXIF data say; what is transparent lies on black; 16 bits of grey become 8,
    with 65535 as white; colours become grey by their luminance, if the network sees one channel;
    and it is stretched to the network's size, with antialiasing.

    Args:
        path: the file.
        shape: of the result, (height, width, C), where C is 1 or 3.

    Returns:
        The picture, uint8.

    Raises:
        UsageError: if the file cannot be read as a picture.
    """
    height, width, channels = shape
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except Exception as error:  # damaged files raise nearly anything
        raise UsageError(f"{path}: cannot be read as a picture: {error}") from error
    if picture.mode in GREYS_16:
        grey = np.asarray(picture).astype(np.float64)
        if grey.min() < 0 or grey.max() > 65535:
            raise UsageError(
                f"{path}: got grey levels from {grey.min():g} to {grey.max():g}; they must be "
                "from 0 to 65535"
            )
        picture = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    elif picture.mode == "F":
        raise UsageError(f"{path}: got floating-point numbers; a picture must have 8 or 16 bits")
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", above.size, BLACK), above)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(shape)

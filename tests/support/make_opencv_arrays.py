"""Make tests/data/opencv_resize.npz: photographs of scikit-image, resized by OpenCV as mmcv does.

OpenCV is in no extra of this project, so this runs in a separate environment:

    pip install "opencv-python-headless==4.7.0.72" "numpy<2" scikit-image
    python tests/make_opencv_arrays.py

Each case holds the image (bytes), the size asked for, and OpenCV's pixels at every `stride`-th row and column.
`prepared` holds the whole preparation of mmdet 2.x (resize, pad with 128, normalise) in the same way.
"""

from __future__ import annotations

import cv2
import numpy as np
from skimage import data

from tests.support.paths import DATA

CASES = {
    # name: (photograph, rows, columns, (height, width), stride)
    "larger": ("astronaut", slice(60, 92), slice(180, 228), (70, 105), 1),
    "smaller": ("chelsea", slice(0, 90), slice(100, 170), (65, 51), 1),
    "half": ("coffee", slice(100, 160), slice(200, 264), (30, 32), 1),
    "much_smaller": ("rocket", slice(0, 100), slice(300, 360), (21, 13), 1),
    "full": ("astronaut", slice(0, 64), slice(190, 254), (800, 800), 17),
}
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main() -> None:
    arrays: dict[str, np.ndarray] = {"opencv": np.array(cv2.__version__)}
    for name, (photograph, rows, columns, (height, width), stride) in CASES.items():
        picture = np.ascontiguousarray(getattr(data, photograph)()[rows, columns, :3])
        resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        arrays[f"{name}_picture"] = picture
        arrays[f"{name}_size"] = np.array([height, width, stride])
        arrays[f"{name}_resized"] = resized[::stride, ::stride]
    # 60 x 100 fits in 1333 x 800 as 1333 x 800 (x 13.33 is 799.8 high), padded to 1344 x 800.
    picture = np.ascontiguousarray(data.coffee()[150:210, 220:320, :3])
    resized = cv2.resize(picture, (1333, 800), interpolation=cv2.INTER_LINEAR)
    padded = cv2.copyMakeBorder(resized, 0, 0, 0, 11, cv2.BORDER_CONSTANT, value=(128, 128, 128)).astype(np.float32)
    cv2.subtract(padded, np.float64(MEAN).reshape(1, -1), padded)
    cv2.multiply(padded, 1 / np.float64(DEVIATION).reshape(1, -1), padded)
    arrays["prepared_picture"] = picture
    arrays["prepared"] = padded[::31, ::31]
    target = DATA / "opencv_resize.npz"
    np.savez_compressed(target, **arrays)
    print(target, target.stat().st_size, "bytes, OpenCV", cv2.__version__)


if __name__ == "__main__":
    main()

"""Makes person masks for a folder of crops, for `data.masks` of a training configuration.

pip install mediapipe==0.10.14 ai-edge-litert
python examples/person_masks.py Market-1501-v15.09.15/bounding_box_train runs/masks

Uses two networks from the wheel of Google's MediaPipe (Apache-2.0): the mask of its pose network, which segments one
person of several, and its selfie segmentation, which includes bags. Their mean is stretched, so that pixels in both
masks are white. Finished files are skipped, so a stopped run continues.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

SIDE = 256  # pixels, side of the square input of both networks
PERSON = 204  # height of the crop within it: both expect some background around a person
POSE, SELFIE = "pose_landmark/pose_landmark_full.tflite", "selfie_segmentation/selfie_segmentation.tflite"


class Network:
    """A TensorFlow Lite network from MediaPipe's wheel that maps a square image to a mask."""

    def __init__(self, name: str, output: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        package = importlib.util.find_spec("mediapipe")
        if package is None or package.origin is None:
            raise SystemExit("mediapipe: not installed; pip install mediapipe==0.10.14 ai-edge-litert")
        self.interpreter = Interpreter(str(Path(package.origin).parent / "modules" / name), num_threads=1)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[output]["index"]

    def __call__(self, square: np.ndarray) -> np.ndarray:
        """(256, 256, 3) float32 in [0, 1] to (256, 256)."""
        self.interpreter.set_tensor(self.input, square[None])
        self.interpreter.invoke()
        mask: np.ndarray = self.interpreter.get_tensor(self.output)[0, :, :, 0]
        return mask


def mask_of(image: Image.Image, pose: Network, selfie: Network) -> Image.Image:
    """The mask of one crop, in the crop's size."""
    width = round(PERSON * image.width / image.height)
    pixels = np.asarray(image.resize((width, PERSON), Image.Resampling.BICUBIC), np.float32) / 255
    top, left = (SIDE - PERSON) // 2, (SIDE - width) // 2
    around = ((top, SIDE - PERSON - top), (left, SIDE - width - left), (0, 0))
    stretched, bordered = np.pad(pixels, around, mode="edge"), np.pad(pixels, around)
    masks = [1 / (1 + np.exp(-pose(square).clip(-30, 30))) for square in (stretched, bordered)] + [selfie(stretched)]
    mean = np.mean(masks, 0)[top : top + PERSON, left : left + width]
    grey = Image.fromarray(((mean - 0.25) / 0.45 * 255).clip(0, 255).astype(np.uint8))
    return grey.resize(image.size, Image.Resampling.BILINEAR)


def main() -> None:
    parser = argparse.ArgumentParser(description="Masks of the persons in a folder of crops.")
    parser.add_argument("folder", type=Path, help="folder of .jpg images that are not wider than high")
    parser.add_argument("out", type=Path, help="folder for the masks, a .png for each image")
    args = parser.parse_args()
    pose, selfie = Network(POSE, 2), Network(SELFIE, 0)
    args.out.mkdir(parents=True, exist_ok=True)
    for path in tqdm(sorted(args.folder.glob("*.jpg")), unit="image"):
        target = args.out / f"{path.stem}.png"
        if not target.exists():
            partial = target.with_suffix(".part")
            mask_of(Image.open(path).convert("RGB"), pose, selfie).save(partial, "PNG")
            partial.replace(target)


if __name__ == "__main__":
    main()

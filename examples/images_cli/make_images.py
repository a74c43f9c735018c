"""Write a folder of images, one subfolder per class, for `run.yaml` beside this file.

    python examples/images_cli/make_images.py

Yours would be there already. These are scikit-learn's handwritten digits, as PNG files.
"""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    folder = Path("images") / ("test" if number % 5 == 0 else "train") / str(label)
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray((image * 15.9).astype("uint8")).resize((32, 32))
    picture.save(folder / f"{number:04}.png")
print(f"{len(digits.target)} images in images/train and images/test")

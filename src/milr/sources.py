"""Sources of the benchmarks' prompt files: address, hash and licence. milr ships none of them.

`milr data get` puts them into `$MILR_DATA` or `~/.cache/milr/data`, each benchmark into its own folder. If a
benchmark's questions to a judge may not be shipped either, the official program that contains them is fetched too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from milr.errors import UsageError
from milr.files import find_cache
from milr.weights import hash_file

ROOT_VARIABLE = "MILR_DATA"


@dataclass(frozen=True)
class DataFile:
    """One file of a benchmark."""

    name: str
    """Name in the folder."""
    path: str
    """Path in the repository."""
    sha256: str


@dataclass(frozen=True)
class Source:
    """A repository at one commit."""

    name: str
    repository: str
    commit: str
    licence: str
    files: tuple[DataFile, ...]
    """The prompt files."""
    judge: DataFile | None = None
    """The official evaluator, for its questions to a VLM judge."""

    @property
    def all_files(self) -> tuple[DataFile, ...]:
        """Return all files that `milr data get` fetches."""
        return self.files if self.judge is None else (*self.files, self.judge)

    @property
    def address(self) -> str:
        """Return the address of the repository's files, without a final slash."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}"

    @property
    def folder(self) -> Path:
        """Return the folder that `milr data get` fills."""
        root = os.environ.get(ROOT_VARIABLE)
        return (Path(root) if root else find_cache(ROOT_VARIABLE) / "milr" / "data") / self.name

    def find(self, folder: Path | None) -> Path:
        """Return the folder with all prompt files, each of them the official one.

        Args:
            folder: A folder given by the user; None takes the folder that `milr data get` fills.

        Raises:
            UsageError: A file is missing, or differs from the official one.
        """
        where = self.folder if folder is None else folder
        for file in self.files:
            if not (where / file.name).is_file():
                raise UsageError(
                    f"no {where / file.name}: the prompts of {self.name} do not come with milr; type milr data get "
                    f"{self.name}, or give --data the folder that holds {', '.join(one.name for one in self.files)}"
                )
            self._check(where / file.name, file)
        return where

    def find_judge(self) -> Path:
        """Return the official evaluator that `milr data get` has fetched.

        Raises:
            UsageError: It has not been fetched, or differs from the official one.
        """
        assert self.judge is not None, f"{self.name} has no evaluator of its own"
        path = self.folder / self.judge.name
        if not path.is_file():
            raise UsageError(
                f"no {path}: the words in which the judge of {self.name} is asked do not come with milr; type milr "
                f"data get {self.name}"
            )
        self._check(path, self.judge)
        return path

    def _check(self, path: Path, file: DataFile) -> None:
        if hash_file(path) != file.sha256:
            raise UsageError(
                f"{path} is not the file of {self.repository} at {self.commit[:12]} (its SHA-256 differs), and its "
                f"numbers would compare with nothing: type milr data get {self.name}"
            )


_GENEVAL = "af4902f24d3ca90ebbb446dd9891a59e0f82725f"
_COMPBENCH = "1b7094991a57f3c22abdd4f6e8ba6c1a15517073"
_WISE = "eb51174483a5de2e34e8614cf9dfb3319ee7fcd0"
_GENEVAL2 = "a6e82d2289e8d418f27f0adee77908b07060eea3"
_COREBENCH = "5d523d3b1c6a3b0891f5e689fb6754b52e5a56c3"
_NO_LICENCE = (
    "none stated: all rights are reserved by default; evaluating with the prompts is common practice, passing them on "
    "is not yours to do"
)

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "geneval",
            "djghosh13/geneval",
            _GENEVAL,
            "MIT, (c) 2023 Dhruba Ghosh",
            (
                DataFile(
                    "evaluation_metadata.jsonl",
                    "prompts/evaluation_metadata.jsonl",
                    "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
                ),
            ),
        ),
        Source(
            "t2i-compbench",
            "Karine-Huang/T2I-CompBench",
            _COMPBENCH,
            "MIT, (c) 2023 HKU",
            (
                DataFile(
                    "color_val.txt",
                    "examples/dataset/color_val.txt",
                    "1634259756dbc77d13093d907d414480080ec9790a8c97ad09efaea7b2534f2d",
                ),
                DataFile(
                    "shape_val.txt",
                    "examples/dataset/shape_val.txt",
                    "37e1a276906c7ea9516cbd7ac8501be896006c0c17ca7344f260562834455bae",
                ),
                DataFile(
                    "texture_val.txt",
                    "examples/dataset/texture_val.txt",
                    "fbb5363515b4a28009e360afaaaf389d2dd2289e50dbb0c6ef4ea0c7fe4f3d4f",
                ),
                DataFile(
                    "spatial_val.txt",
                    "examples/dataset/spatial_val.txt",
                    "8707a1d7e42ce3002d95363cf55f74bd043c843ae27108f5125aaaa7840ca988",
                ),
                DataFile(
                    "non_spatial_val.txt",
                    "examples/dataset/non_spatial_val.txt",
                    "04c56cc9ac441dc9ea6c5157652058bd1635b5308526dd31bb29a1caab9a758d",
                ),
                DataFile(
                    "complex_val.txt",
                    "examples/dataset/complex_val.txt",
                    "1b808018b8d9916db3d47d5aa2ef18377a3549a56901a474156f799824cdf3b4",
                ),
            ),
        ),
        Source(
            "wise",
            "PKU-YuanGroup/WISE",
            _WISE,
            _NO_LICENCE,
            (
                DataFile(
                    "cultural_common_sense_verified.json",
                    "data_verified/cultural_common_sense_verified.json",
                    "23482925266e2784b2ba24b75239fdc6691bf85ae253d2c4aa38b71b45fefa89",
                ),
                DataFile(
                    "spatio-temporal_reasoning_verified.json",
                    "data_verified/spatio-temporal_reasoning_verified.json",
                    "42c0b9d829365e392c2d4af283850dc76b1f922ab0c79198366de4f306eaf2b6",
                ),
                DataFile(
                    "natural_science_verified.json",
                    "data_verified/natural_science_verified.json",
                    "6f346c336f16f611e5c73e0fcacdccb336c200d534cf111526b22d50ea912555",
                ),
            ),
            judge=DataFile(
                "vllm_eval.py", "vllm_eval.py", "e6c51c2ae81e4eb0465755b248cbcefeef3fb8340e281bb3ac43ea9689e32192"
            ),
        ),
        Source(
            "wise-legacy",
            "PKU-YuanGroup/WISE",
            _WISE,
            _NO_LICENCE,
            (
                DataFile(
                    "cultural_common_sense.json",
                    "WISE_legacy/data/cultural_common_sense.json",
                    "7a59216c768698280cea37caa574b52f3faf054d73b398b9bb6b3161baf8e3aa",
                ),
                DataFile(
                    "spatio-temporal_reasoning.json",
                    "WISE_legacy/data/spatio-temporal_reasoning.json",
                    "e27d797885ad86e64d857d0cc93d33e04be572a8dcae95692a2c7e7876233f9a",
                ),
                DataFile(
                    "natural_science.json",
                    "WISE_legacy/data/natural_science.json",
                    "b262fae58e413c7a4bd3c3d5a089f8c6529feac227e4b6606be261a949035544",
                ),
            ),
            judge=DataFile(
                "gpt_eval.py",
                "WISE_legacy/gpt_eval.py",
                "06fd6dcd7cf45a638fe8a3634b880d936077f161f3641002e58d7bf51daa2407",
            ),
        ),
        Source(
            "geneval2",
            "facebookresearch/GenEval2",
            _GENEVAL2,
            "CC BY-NC 4.0, (c) 2024 Meta Platforms, Inc.: not for commercial use",
            (
                DataFile(
                    "geneval2_data.jsonl",
                    "geneval2_data.jsonl",
                    "09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43",
                ),
            ),
            judge=DataFile(
                "evaluation.py", "evaluation.py", "90791e35321a1a2bf65366517dd60f39037f90435490eb122c0027b52d42cda9"
            ),
        ),
        Source(
            "t2i-corebench",
            "KwaiVGI/T2I-CoReBench",
            _COREBENCH,
            "Apache-2.0",
            (
                DataFile(
                    "C-MI.json", "data/C-MI.json", "20684699d52c75d2553790c8ec4fc9da13550426f297fd06fa739e2399665b94"
                ),
                DataFile(
                    "C-MA.json", "data/C-MA.json", "a1c06bf30d6f952bff8a76c0accfd95b7b95d582baae622fd57b694a855a11cd"
                ),
                DataFile(
                    "C-MR.json", "data/C-MR.json", "e6c61d517d9c8ccb6925ef9e14affc3157bdfe7bb157fd8bb425454643a62375"
                ),
                DataFile(
                    "C-TR.json", "data/C-TR.json", "5cd3bf63a3b592903d7cb880ca6ec457dfe8cdfad0d2c69db51472cba8362a29"
                ),
                DataFile(
                    "R-LR.json", "data/R-LR.json", "334277f2d410a39b66c132921f6058985ad41cc5f06f07bc3a2a5b1b4ce0c7b8"
                ),
                DataFile(
                    "R-BR.json", "data/R-BR.json", "f4d3fddd7dabb160f80c21d0ceda9cd155e452e625dfb357ca70b8aae0633d5c"
                ),
                DataFile(
                    "R-HR.json", "data/R-HR.json", "ed833edec27361701747266056e8e93ae892559545953e59459d1604783aa523"
                ),
                DataFile(
                    "R-PR.json", "data/R-PR.json", "ba8494bba888fa2599fded078526153fc0383d8d85a3ba90458199bc395a1e3e"
                ),
                DataFile(
                    "R-GR.json", "data/R-GR.json", "48e4e1557766fcedb33d28758c032e434a6a34456655c71f69e002b8f3d60cca"
                ),
                DataFile(
                    "R-AR.json", "data/R-AR.json", "c356fe77620c47e9f540c5755e2b08efa3c992c32bd99c47b1851485e98e53b5"
                ),
                DataFile(
                    "R-CR.json", "data/R-CR.json", "8a5a0c6fb2de8a8dfc521a22d12f47be19c2ce0cbc8a467f42395e0f51323978"
                ),
                DataFile(
                    "R-RR.json", "data/R-RR.json", "5f94745af411bb64b81a12a04dd9248d26380700876111b661d5535eccaa8dcd"
                ),
            ),
            judge=DataFile(
                "evaluate.py", "evaluate.py", "9475817402d47b62e0bdb577c3ca41432969582c448ded1c51df022eb4edaaed"
            ),
        ),
    )
}
"""Benchmark -> source of its files."""

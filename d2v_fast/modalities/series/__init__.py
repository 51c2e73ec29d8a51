"""Series: signals of many channels over time (EEG, ECG, accelerometers)."""

from d2v_fast import registry
from d2v_fast.modalities.series.modality import Series

registry.register(Series())

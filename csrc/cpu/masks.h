// Masks as pure functions of (seed, epoch, sample id, view); see docs/architecture.md.
#pragma once
#include <stdint.h>

namespace d2v {}

#include "masks.h"

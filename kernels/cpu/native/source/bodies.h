/* Every body, for the level whose source includes this. */
#include "rows.h"

#include "plan.h"

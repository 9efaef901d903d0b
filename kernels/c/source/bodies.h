/* Every body, for the level whose source includes this. */
#include "rows.h"

#include "experts.h"

#include "panels.h"

#include "plan.h"

#include "quantised_experts.h"

/* For any processor: vectors of four, which every 64-bit one has. */
#define LEVEL portable
#include BODY

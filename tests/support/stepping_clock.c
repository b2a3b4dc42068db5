/*
 * Preloaded: the wall clock is stepped between any two looks at it, a month ahead and back.
 * Every other clock, and every timer, is the kernel's own.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

static const time_t STEP = 30 * 86400;
static atomic_int looks;

int clock_gettime(clockid_t clock, struct timespec *at)
{
    int result = (int)syscall(SYS_clock_gettime, clock, at);

    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += atomic_fetch_add(&looks, 1) % 2 ? STEP : 0;
    return result;
}

time_t time(time_t *at)
{
    struct timespec now = {0};

    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *at, void *zone)
{
    struct timespec now = {0};

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

/* A link between two network namespaces that has a delay, a loss and a rate in each direction.

       link NAME0 NAME1

   It makes a TUN device NAME0 in the namespace that it is started in, a namespace of its own, and
   a device NAME1 in that one; then it carries IP packets between both until its standard input
   ends. Each line that it reads sets both directions, first the one of packets that the kernel
   sends to NAME0:

       DELAY_US LOSS_PPM BYTES_PER_SECOND QUEUE_US   DELAY_US LOSS_PPM BYTES_PER_SECOND QUEUE_US

   A packet waits until the ones before it have passed at that rate (0: no limit), and is dropped
   when that would take longer than QUEUE_US. It answers each line with what it carried under the
   line before: packets, lost, dropped, and how late it wrote them in microseconds, mean and
   maximum. Losses are of a generator that starts with the same seed at each line.

   A path of 100 MB/s has 100,000 packets a second. Each costs two system calls here, and ten
   times as much in Python: the link would be the bottleneck.
*/

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SLOTS (1u << 17) /* packets under way in one direction */
#define LARGEST 1500
#define BATCH 64

struct packet {
    int64_t due;
    uint16_t size;
    char *bytes;
};

struct direction {
    int from, to;
    int64_t delay, queue, free_at, last_due;
    uint64_t loss, rate;
    uint32_t head, tail;
    struct packet *ring;
};

static uint64_t carried, lost, dropped, late_sum, late_max, seed;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int device(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fail("/dev/net/tun");
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(fd, TUNSETIFF, &request) < 0) fail(name);
    return fd;
}

static int is_lost(const struct direction *d) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % 1000000 < d->loss;
}

/* Take what the kernel sends, up to a batch; whether there was any. */
static int take(struct direction *d) {
    char bytes[LARGEST];
    int count = 0;
    for (; count < BATCH; count++) {
        ssize_t size = read(d->from, bytes, sizeof bytes);
        if (size < 0 && (errno == EAGAIN || errno == EIO)) break; /* EIO: it is not up yet */
        if (size < 0) fail("read");
        int64_t at = now(), turn = d->free_at > at ? d->free_at : at;
        if (turn - at > d->queue || d->tail - d->head == SLOTS) {
            dropped++;
            continue;
        }
        if (d->rate) d->free_at = turn += (int64_t) (size * 1000000000ull / d->rate);
        if (is_lost(d)) {
            lost++;
            continue;
        }
        struct packet *p = &d->ring[d->tail++ % SLOTS];
        p->due = turn + d->delay;
        if (p->due < d->last_due) p->due = d->last_due; /* the delay was longer before */
        d->last_due = p->due;
        p->size = (uint16_t) size;
        p->bytes = malloc((size_t) size);
        if (p->bytes == NULL) fail("malloc");
        memcpy(p->bytes, bytes, (size_t) size);
    }
    return count > 0;
}

/* Write what is due; when the next one is, or INT64_MAX. */
static int64_t give(struct direction *d) {
    while (d->head != d->tail) {
        struct packet *p = &d->ring[d->head % SLOTS];
        int64_t late = now() - p->due;
        if (late < 0) return p->due;
        if (write(d->to, p->bytes, p->size) < 0 && errno != EIO) fail("write");
        free(p->bytes);
        d->head++;
        carried++;
        late_sum += (uint64_t) late;
        if ((uint64_t) late > late_max) late_max = (uint64_t) late;
    }
    return INT64_MAX;
}

/* One line of standard input; it comes in one piece. */
static void set(struct direction *both) {
    char line[400];
    long long v[8];
    ssize_t size = read(0, line, sizeof line - 1);
    if (size <= 0) exit(0);
    line[size] = 0;
    if (sscanf(line, "%lld %lld %lld %lld %lld %lld %lld %lld", v, v + 1, v + 2, v + 3, v + 4, v + 5,
               v + 6, v + 7) != 8) {
        fputs("link: not a line of eight numbers\n", stderr);
        exit(2);
    }
    for (int i = 0; i < 2; i++) {
        both[i].delay = v[4 * i] * 1000;
        both[i].loss = (uint64_t) v[4 * i + 1];
        both[i].rate = (uint64_t) v[4 * i + 2];
        both[i].queue = v[4 * i + 3] * 1000;
    }
    printf("%llu %llu %llu %llu %llu\n", (unsigned long long) carried, (unsigned long long) lost,
           (unsigned long long) dropped,
           (unsigned long long) (carried ? late_sum / carried / 1000 : 0),
           (unsigned long long) late_max / 1000);
    fflush(stdout);
    carried = lost = dropped = late_sum = late_max = 0;
    seed = 88172645463325252ull;
}

int main(int argc, char **argv) {
    struct direction both[2] = {0};
    if (argc != 3) return 2;
    both[0].from = both[1].to = device(argv[1]);
    if (unshare(CLONE_NEWNET) < 0) fail("unshare");
    both[1].from = both[0].to = device(argv[2]);
    for (int i = 0; i < 2; i++) {
        both[i].ring = calloc(SLOTS, sizeof *both[i].ring);
        if (both[i].ring == NULL) fail("calloc");
        both[i].queue = INT64_MAX;
    }
    seed = 88172645463325252ull;
    setpriority(PRIO_PROCESS, 0, -20); /* a link does not wait for a processor */
    puts("ready");
    fflush(stdout);
    struct pollfd ready[3] = {
        {.fd = 0, .events = POLLIN},
        {.fd = both[0].from, .events = POLLIN},
        {.fd = both[1].from, .events = POLLIN},
    };
    for (;;) {
        int64_t next = give(&both[0]), other = give(&both[1]);
        if (other < next) next = other;
        int busy = take(&both[0]) | take(&both[1]);
        int64_t wait = busy ? 0 : next == INT64_MAX ? 1000000000 : next - now();
        if (wait < 0) wait = 0;
        struct timespec timeout = {wait / 1000000000, wait % 1000000000};
        if (ppoll(ready, busy ? 1 : 3, &timeout, NULL) < 0 && errno != EINTR) fail("ppoll");
        if (ready[0].revents) set(both);
    }
}

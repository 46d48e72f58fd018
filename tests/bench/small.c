/* The benchmark's workload: some memory, a beat every millisecond, on request dirtied pages and TCP connections.
 *
 *   small DIR MIB DIRTY_MIB_S CONNECTIONS [BITS]
 *
 * With BITS each byte has so many bits of entropy, so that it can be compressed. The connections lead from it to itself over 127.0.0.1; a number goes out on each and must come back before the next.
 * The gap is the longest silence of the beat, or of a connection.
 *
 * It knows what every page must hold, so it can tell whether it is whole: SIGUSR1 writes DIR/result (JSON), SIGUSR2
 * forgets the longest silence. Built with -static: it maps no file but itself, so its images are its memory.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, PEERS = 256 };

static volatile sig_atomic_t asked, forget;
static uint64_t *memory, pages, writes, beats, broken, mask = ~0ull;
static double longest_s;
static int peers;
static struct { int ours, theirs, quiet; uint64_t sent; double heard_s; } peer[PEERS];

static void on_signal(int number) { if (number == SIGUSR1) asked = 1; else forget = 1; }

static double now_s(void) { /* CRIU restores into a time namespace in which the monotonic clock stands still meanwhile */
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static uint64_t word(uint64_t page, uint64_t index) { /* splitmix64: looks random, so without BITS nothing compresses it */
    uint64_t x = (page * WORDS + index + 1) * 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return (x ^ (x >> 31)) & mask;
}

static uint64_t version(uint64_t page) { return page < writes ? (writes - 1 - page) / pages + 1 : 0; }

static void answer(const char *directory) {
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < pages; page++) {
        uint64_t *at = memory + page * WORDS;
        int bad = at[0] != version(page);
        for (uint64_t i = 1; i < WORDS; i++) bad |= at[i] != word(page, i);
        wrong += bad;
    }
    char part[4096], whole[4096];
    snprintf(part, sizeof part, "%s/result.new", directory);
    snprintf(whole, sizeof whole, "%s/result", directory);
    FILE *out = fopen(part, "w");
    if (!out) return;
    fprintf(out, "{\"wrong_pages\": %llu, \"broken\": %llu, \"beats\": %llu, \"gap_s\": %.6f}\n", (unsigned long long)wrong,
            (unsigned long long)broken, (unsigned long long)beats, longest_s);
    fclose(out);
    rename(part, whole);
}

static void fail(const char *what) { perror(what); exit(1); }

static void open_connections(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, PEERS)) fail("listen");
    getsockname(listener, (struct sockaddr *)&at, &size);
    for (int i = 0; i < peers; i++) {
        peer[i].ours = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(peer[i].ours, (struct sockaddr *)&at, sizeof at)) fail("connect");
        peer[i].theirs = accept(listener, NULL, NULL);
        setsockopt(peer[i].ours, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(peer[i].theirs, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        peer[i].heard_s = now_s();
        peer[i].quiet = 1;
    }
}

static void talk(void) { /* the number back, then the next one */
    for (int i = 0; i < peers; i++) {
        uint64_t number;
        if (recv(peer[i].theirs, &number, 8, MSG_DONTWAIT) == 8) send(peer[i].theirs, &number, 8, MSG_NOSIGNAL);
        ssize_t size = recv(peer[i].ours, &number, 8, MSG_DONTWAIT);
        if (size == 8) {
            double at_s = now_s();
            if (at_s - peer[i].heard_s > longest_s) longest_s = at_s - peer[i].heard_s;
            peer[i].heard_s = at_s;
            if (number != peer[i].sent) broken++;
        } else if (size >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) broken++;
        if (size == 8 || peer[i].quiet) {
            number = ++peer[i].sent;
            if (send(peer[i].ours, &number, 8, MSG_NOSIGNAL) != 8) broken++;
            peer[i].quiet = 0;
        }
    }
}

int main(int count, char **words) {
    if (count < 5 || count > 6 || (peers = atoi(words[4])) > PEERS) return 2;
    if (count == 6) mask = ((1u << atoi(words[5])) - 1) * 0x0101010101010101ull;
    double dirty_pages_s = atof(words[3]) * 256, debt = 0;
    pages = strtoull(words[2], NULL, 10) * 256;
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    for (uint64_t i = 0; i < pages * WORDS; i++) memory[i] = i % WORDS ? word(i / WORDS, i % WORDS) : 0;
    if (peers) open_connections();
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    double last_s = now_s();
    answer(words[1]);
    for (;;) {
        struct timespec tick = {0, 1000000};
        nanosleep(&tick, NULL);
        double at_s = now_s(), gap_s = at_s - last_s;
        if (gap_s > longest_s) longest_s = gap_s;
        beats++;
        talk();
        for (debt += dirty_pages_s * (gap_s < 0.02 ? gap_s : 0.02); debt >= 1; debt--) {
            uint64_t page = writes++ % pages;
            memory[page * WORDS] = version(page);
        }
        if (asked) answer(words[1]);
        if (forget) longest_s = 0;
        if (asked || forget) { /* that took its time on purpose */
            at_s = now_s();
            for (int i = 0; i < peers; i++) peer[i].heard_s = at_s;
        }
        asked = forget = 0;
        last_s = at_s;
    }
}

/* The benchmark's workload: little memory, a beat every millisecond, on request dirtied pages and a TCP echo.
 *
 *   small DIR MIB DIRTY_MIB_S [ADDRESS PORT]
 *
 * It knows what every page must hold, so it can tell whether it is whole: SIGUSR1 writes DIR/result (JSON), SIGUSR2
 * forgets the longest silence. Built with -static: it maps no file but itself, so its images are its memory.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
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
static uint64_t *memory, pages, writes, beats;
static double longest_s;

static void on_signal(int number) { if (number == SIGUSR1) asked = 1; else forget = 1; }

static double now_s(void) { /* CRIU restores into a time namespace in which the monotonic clock stands still meanwhile */
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static uint64_t word(uint64_t page, uint64_t index) { /* splitmix64: looks random, so nothing compresses it */
    uint64_t x = (page * WORDS + index + 1) * 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
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
    fprintf(out, "{\"wrong_pages\": %llu, \"beats\": %llu, \"gap_s\": %.6f}\n", (unsigned long long)wrong,
            (unsigned long long)beats, longest_s);
    fclose(out);
    rename(part, whole);
}

static void echo(struct pollfd *peer) {
    char data[65536];
    ssize_t size = recv(peer->fd, data, sizeof data, MSG_DONTWAIT);
    for (ssize_t done = 0, sent; done < size; done += sent)
        if ((sent = send(peer->fd, data + done, size - done, MSG_NOSIGNAL)) < 0) { size = 0; break; }
    if (size == 0) { close(peer->fd); peer->fd = -1; }
}

int main(int count, char **words) {
    if (count != 4 && count != 6) return 2;
    double dirty_pages_s = atof(words[3]) * 256, debt = 0;
    pages = strtoull(words[2], NULL, 10) * 256;
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    for (uint64_t i = 0; i < pages * WORDS; i++) memory[i] = i % WORDS ? word(i / WORDS, i % WORDS) : 0;
    struct pollfd fds[PEERS];
    int used = 0, one = 1;
    if (count == 6) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(words[5]))};
        inet_pton(AF_INET, words[4], &at.sin_addr);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 128)) return 1;
        fds[used++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    double last_s = now_s();
    for (;;) {
        struct timespec tick = {0, 1000000};
        if (ppoll(fds, used, &tick, NULL) > 0) {
            for (int i = 1; i < used; i++)
                if (fds[i].fd >= 0 && fds[i].revents) echo(&fds[i]);
            if (fds[0].revents && used < PEERS) {
                int fd = accept(fds[0].fd, NULL, NULL);
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                fds[used++] = (struct pollfd){.fd = fd, .events = POLLIN};
            }
        }
        double at_s = now_s(), gap_s = at_s - last_s;
        if (gap_s > longest_s) longest_s = gap_s;
        beats++;
        for (debt += dirty_pages_s * (gap_s < 0.02 ? gap_s : 0.02); debt >= 1; debt--) {
            uint64_t page = writes++ % pages;
            memory[page * WORDS] = version(page);
        }
        if (forget) { forget = 0; longest_s = 0; }
        if (asked) { asked = 0; answer(words[1]); at_s = now_s(); }
        last_s = at_s;
    }
}

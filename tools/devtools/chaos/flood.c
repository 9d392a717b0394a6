/* flood: UDP datagrams of one content from many addresses, as fast as told, and nothing else.
 *
 * Whole frames out of a packet socket, so from addresses that no interface has. Each datagram has another source
 * address and port than the one before; the first NUMBER (eight digits "00000000") in the content counts up, so that no
 * two requests are alike. UDP checksums are left out, which IPv4 allows [RFC 768].
 *
 * Usage: flood INTERFACE LINK-ADDRESS TARGET PORT FIRST-SOURCE SOURCES RATE SECONDS CONTENT-FILE
 * Prints how many it has sent. SIGTERM ends it early.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, ETHERNET = 14, HEADERS = 14 + 20 + 8, LARGEST = 1500 - 28, DIGITS = 8 };

static volatile sig_atomic_t stopped;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

static void die(const char *what)
{
    fprintf(stderr, "flood: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

static void finish_ip(uint8_t *ip)
{
    uint32_t sum = 0;
    put16(ip + 10, 0);
    for (int i = 0; i < 20; i += 2)
        sum += (uint32_t)ip[i] << 8 | ip[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    put16(ip + 10, ~sum & 0xffff);
}

int main(int count, char **words)
{
    static uint8_t frames[BATCH][HEADERS + LARGEST], content[LARGEST + 1];
    struct mmsghdr messages[BATCH] = {0};
    struct iovec parts[BATCH];
    struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6};
    uint8_t *to = link.sll_addr;
    if (count != 10) {
        fprintf(stderr, "flood: 9 words are needed, see the head of flood.c\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    link.sll_ifindex = (int)if_nametoindex(words[1]);
    if (!link.sll_ifindex)
        die(words[1]);
    if (sscanf(words[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", to, to + 1, to + 2, to + 3, to + 4, to + 5) != 6)
        die(words[2]);
    uint32_t target = ntohl(inet_addr(words[3])), first = ntohl(inet_addr(words[5]));
    uint32_t port = (uint32_t)atoi(words[4]), sources = (uint32_t)atoi(words[6]);
    double rate = atof(words[7]), seconds = atof(words[8]);
    FILE *file = fopen(words[9], "rb");
    if (!file)
        die(words[9]);
    size_t length = fread(content, 1, sizeof content, file);
    if (!sources || length > LARGEST)
        die("no sources, or too much content");
    char *number = memmem(content, length, "00000000", DIGITS);
    size_t at = number ? (size_t)((uint8_t *)number - content) : 0;

    int out = socket(AF_PACKET, SOCK_RAW, 0);
    if (out < 0)
        die("socket");
    for (int i = 0; i < BATCH; i++) {
        uint8_t *frame = frames[i], *ip = frame + ETHERNET;
        memcpy(frame, to, 6);
        frame[6] = 2;  /* a locally administered address, 02:00:00:00:00:00 */
        put16(frame + 12, ETH_P_IP);
        ip[0] = 0x45;
        put16(ip + 2, (uint32_t)(28 + length));
        ip[8] = 64;
        ip[9] = 17;
        put32(ip + 16, target);
        put16(ip + 22, port);
        put16(ip + 24, (uint32_t)(8 + length));
        memcpy(ip + 28, content, length);
        parts[i] = (struct iovec){frame, HEADERS + length};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &link, .msg_namelen = sizeof link, .msg_iov = &parts[i], .msg_iovlen = 1};
    }

    uint64_t sent = 0;
    double begun = now();
    while (!stopped) {
        double elapsed = now() - begun;
        if (elapsed >= seconds)
            break;
        uint64_t due = (uint64_t)(elapsed * rate);
        if (due <= sent) {
            usleep(500);
            continue;
        }
        int batch = due - sent < BATCH ? (int)(due - sent) : BATCH;
        for (int i = 0; i < batch; i++) {
            uint64_t serial = sent + (uint64_t)i;
            uint8_t *ip = frames[i] + ETHERNET;
            put32(ip + 12, first + (uint32_t)(serial % sources));
            put16(ip + 20, 1024 + (uint32_t)(serial / sources % 60000));
            finish_ip(ip);
            if (number) {
                uint64_t value = serial;
                for (int digit = DIGITS - 1; digit >= 0; digit--, value /= 10)
                    ip[28 + at + (size_t)digit] = (uint8_t)('0' + value % 10);
            }
        }
        int done = sendmmsg(out, messages, (unsigned)batch, 0);
        if (done < 0 && errno != ENOBUFS && errno != EINTR)
            die("sendmmsg");
        sent += done > 0 ? (uint64_t)done : 0;
    }
    printf("%llu\n", (unsigned long long)sent);
    return 0;
}
